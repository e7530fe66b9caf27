"""Ridge and lda of one subset for one setting after another, in features or in samples.

Shapes: V validation rows, k tokens of a subset, D width, P = k D features, n samples fitted to,
M targets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from layercache.probing.baselines.models import ABSENT_CLASS_LOGIT
from layercache.probing.closed_form.cholesky import (
    Coefficients,
    DiscriminantSystem,
    RidgeSystem,
)
from layercache.probing.closed_form.dual_form import (
    CenteredGram,
    DualDiscriminant,
    DualRidge,
)
from layercache.probing.closed_form.moments import Moments
from layercache.probing.scan.gram import GramMatrix
from layercache.probing.scan.linear import Linear


class System(Protocol):
    """Equations of one head."""

    def coefficients(self, setting: float, /) -> Coefficients | None:
        """Return the coefficients of a setting, or None if it is below rounding errors."""
        ...


class Solver(ABC):
    """Fits the linear heads of one subset."""

    def __init__(self, *, classifies: bool, absent: Tensor) -> None:
        """Start without equations.

        Args:
            classifies: The targets are classes: ridge then has targets of 1 and -1, as
                `RidgeClassifier`.
            absent: Classes without training rows, bool (M,).
        """
        self._classifies, self._absent = classifies, absent
        self._head, self._system = "", None

    _system: System | None

    def fit(self, head: str, setting: float) -> Coefficients | None:
        """Return the coefficients of a setting, or None if it is below rounding errors.

        Args:
            head: ridge or lda. The equations of one head are in memory at a time.
            setting: Its penalty or shrinkage.
        """
        if head != self._head or self._system is None:
            self._head, self._system = head, None
            self._system = self._prepare(head)
        coefficients = self._system.coefficients(setting)
        if coefficients is None:
            return None
        weight, bias = coefficients
        if head == "ridge" and self._classifies:
            weight, bias = 2 * weight, 2 * bias - 1
        return weight, bias.masked_fill(self._absent, ABSENT_CLASS_LOGIT)

    @abstractmethod
    def _prepare(self, head: str) -> System: ...

    @abstractmethod
    def val_outputs(self, coefficients: Coefficients) -> Tensor:
        """Return the outputs (V, M) on the validation rows."""

    @abstractmethod
    def linear(self, coefficients: Coefficients) -> Linear:
        """Return the head."""


class FeatureSolver(Solver):
    """Fits in the coordinates of the features."""

    def __init__(
        self, moments: Moments, *, val: Sequence[Tensor], classifies: bool, absent: Tensor
    ) -> None:
        """Take moments.

        Args:
            moments: Of the features of the training rows.
            val: Normalized tokens of the validation rows, k times float32 (V, D).
            classifies: See Solver, as for the others.
            absent: Classes without training rows.
        """
        super().__init__(classifies=classifies, absent=absent)
        self._moments, self._val = moments, val

    def _prepare(self, head: str) -> System:
        if head == "ridge":
            return RidgeSystem(self._moments)
        return DiscriminantSystem(self._moments)

    def val_outputs(self, coefficients: Coefficients) -> Tensor:
        """See Solver."""
        return self.linear(coefficients).outputs(self._val)

    def linear(self, coefficients: Coefficients) -> Linear:
        """See Solver."""
        weight, bias = coefficients
        return Linear(weight.float(), bias.float())


class SampleSolver(Solver):
    """Fits in the coordinates of the samples, of which the validation rows are others."""

    def __init__(
        self,
        samples: GramMatrix,
        y: Tensor,
        weight: Tensor,
        *,
        train: Tensor,
        val: Tensor,
        classifies: bool,
        absent: Tensor,
    ) -> None:
        """Take a Gram matrix.

        Args:
            samples: Gram matrix of samples.
            y: Targets of those to fit to, float64 (n, M).
            weight: Weight of each of them, float64 (n,).
            train: Their numbers, (n,).
            val: Numbers of the validation rows, (V,).
            classifies: See Solver, as for the others.
            absent: Classes without training rows.
        """
        super().__init__(classifies=classifies, absent=absent)
        self._samples, self._y, self._train, self._val = samples, y, train, val
        self._centered = CenteredGram(samples.matrix[train[:, None], train], weight)

    def _prepare(self, head: str) -> System:
        if head == "ridge":
            return DualRidge(self._centered, self._y)
        features = len(self._samples.shift)
        return DualDiscriminant(self._centered, self._y, features=features)

    def val_outputs(self, coefficients: Coefficients) -> Tensor:
        """See Solver."""
        weight, bias = coefficients
        gram = self._samples.matrix[self._val[:, None], self._train]
        return (gram @ weight.t() + bias).float()

    def linear(self, coefficients: Coefficients) -> Linear:
        """See Solver."""
        weight, bias = self._samples.of_features(*coefficients, self._train)
        return Linear(weight.float(), bias.float())
