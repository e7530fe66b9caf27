"""Result of one fit of a baseline, for all of its configurations.

Shapes: N training samples, B samples, P features, C classes or columns of a regression's targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from layercache.probing.closed_form.lda import Discriminant
from layercache.probing.closed_form.logistic import binary, multinomial
from layercache.probing.closed_form.ridge import Ridge
from layercache.probing.closed_form.targets import balanced_weights
from layercache.probing.results.config_score import ConfigKey, config_key

Config = Mapping[str, float]

ABSENT_CLASS_LOGIT = -1e4
"""Logit of a class without training samples."""


class Model(Protocol):
    """A baseline that was fitted for several configurations."""

    def outputs(self, x: Tensor, configs: Iterable[Config]) -> Iterator[Tensor]:
        """Yield logits, or values of a regression, (B, C) of features (B, P) for each of them."""
        ...


class LinearModel(Model, Protocol):
    """A baseline that is a linear head."""

    def linear(self, config: Config) -> tuple[Tensor, Tensor, bool | None]:
        """Return weight (C, P), bias (C,), and whether the solver converged (None: it is exact)."""
        ...


@dataclass(frozen=True, eq=False)
class RidgeModel:
    """Ridge regression on floats, or on classes as targets of 1 and -1, as `RidgeClassifier`."""

    fitted: Ridge
    """Ridge regression for every penalty, on floats or on targets of 1 and 0."""
    classifies: bool
    """The targets are classes."""
    absent: Tensor
    """Classes without samples, bool (C,)."""

    def outputs(self, x: Tensor, configs: Iterable[Config]) -> Iterator[Tensor]:
        """See Model."""
        for outputs in self.fitted.predict(x, (config["alpha"] for config in configs)):
            if self.classifies:
                outputs = 2 * outputs - 1
            yield outputs.masked_fill(self.absent, ABSENT_CLASS_LOGIT)

    def linear(self, config: Config) -> tuple[Tensor, Tensor, None]:
        """See LinearModel."""
        weight, bias = self.fitted.coefficients(config["alpha"])
        if self.classifies:
            weight, bias = 2 * weight, 2 * bias - 1
        return weight, bias.masked_fill(self.absent, ABSENT_CLASS_LOGIT), None


@dataclass(frozen=True, eq=False)
class DiscriminantModel:
    """Linear discriminant analysis."""

    fitted: Discriminant
    """Discriminant analysis for every shrinkage."""

    def outputs(self, x: Tensor, configs: Iterable[Config]) -> Iterator[Tensor]:
        """See Model."""
        for logits in self.fitted.predict(x, (config["shrinkage"] for config in configs)):
            yield logits.nan_to_num(neginf=ABSENT_CLASS_LOGIT)

    def linear(self, config: Config) -> tuple[Tensor, Tensor, None]:
        """See LinearModel."""
        weight, bias = self.fitted.coefficients(config["shrinkage"])
        return weight, bias.nan_to_num(neginf=ABSENT_CLASS_LOGIT), None


@dataclass(frozen=True, eq=False)
class LogisticModel:
    """Logistic regression."""

    coefficients: Mapping[ConfigKey, tuple[Tensor, Tensor, bool]]
    """Weight (C, P), bias (C,) and convergence of each configuration."""

    def outputs(self, x: Tensor, configs: Iterable[Config]) -> Iterator[Tensor]:
        """See Model."""
        for config in configs:
            weight, bias, _ = self.linear(config)
            yield torch.addmm(bias.to(x.dtype), x, weight.t().to(x.dtype))

    def linear(self, config: Config) -> tuple[Tensor, Tensor, bool]:
        """See LinearModel."""
        return self.coefficients[config_key(config)]


def fit_logistic(x: Tensor, y: Tensor, classes: int, configs: Sequence[Config]) -> LogisticModel:
    """Fit logistic regressions with balanced classes, or one for each label on its own.

    Args:
        x: Features (N, P).
        y: Class numbers (N,), or 0/1 for each label (N, C).
        classes: C.
        configs: Values of C, the inverse strength of the penalty.
    """
    strengths = [config["C"] for config in configs]
    weight = torch.zeros((len(configs), classes, x.shape[1]), dtype=torch.float64, device=x.device)
    bias = weight.new_full((len(configs), classes), ABSENT_CLASS_LOGIT)
    converged = torch.ones(len(configs), dtype=torch.bool, device=x.device)
    if y.ndim == 2:
        bias[:, y.bool().all(0)] = -ABSENT_CLASS_LOGIT
        varying = torch.nonzero(y.bool().any(0) & ~y.bool().all(0)).flatten()
        if len(varying):
            solution = binary(x, y[:, varying], inverse_penalties=strengths)
            weight[:, varying], bias[:, varying] = solution.weight, solution.bias
            converged = solution.converged
    else:
        present, index = torch.unique(y, return_inverse=True)
        balanced = balanced_weights(y, classes)
        bias[:, present] = 0.0
        if len(present) == 2:
            # one logit for two classes: that of the second, where the first has 0
            solution = binary(
                x, index[:, None], inverse_penalties=strengths, sample_weight=balanced
            )
            weight[:, present[1:]], bias[:, present[1:]] = solution.weight, solution.bias
            converged = solution.converged
        elif len(present) > 2:
            solution = multinomial(
                x, index, len(present), inverse_penalties=strengths, sample_weight=balanced
            )
            weight[:, present], bias[:, present] = solution.weight, solution.bias
            converged = solution.converged
    return LogisticModel(
        {
            config_key(config): (weight[i], bias[i], bool(converged[i]))
            for i, config in enumerate(configs)
        }
    )
