"""Logistic regression for all penalties at once, by batched L-BFGS.

Minimizes for each C, over coefficients W and an intercept b that is not penalized,

    sum over i of  w_i loss(W x_i + b, y_i)  +  |W|² / (2 C),

as scikit-learn's `LogisticRegression` does: the loss is the cross-entropy of the classes, or that
of one logit for two classes and for each of several labels. The problems share the products with
the samples, each has its own steps, and one that has converged leaves.

The samples are rotated to the eigenvectors of their scatter and each direction is scaled by the
curvature that the loss and the penalty give it at the start. So a step of length one is close to
Newton's, and weak penalties need about as many steps as strong ones.

Shapes: N samples, P features, R directions, Q problems, M logits of a problem, A penalties,
C classes, V = M (R + 1) variables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layercache.probing.closed_form.lbfgs import minimize
from layercache.probing.closed_form.spectrum import spectrum_of_samples

MAX_ROTATED = 4096
"""Directions up to which the samples are rotated; an eigendecomposition grows with their cube."""
LOGITS_BYTES = 32 * 2**20
"""Logits of all problems that are in memory at a time."""
GRADIENT_TOLERANCE = 3e-5
"""Largest component of the gradient of the mean loss, times the number of classes, whose samples
share the gradient: at a fixed size, weak penalties on many classes end far from the optimum."""
MIN_TOLERANCE = 3e-7
"""Smallest tolerance: single precision reaches no less."""
MAX_ITERATIONS = 1000

Loss = Callable[[Tensor, slice, Tensor], Tensor]
"""(logits (N, Q, M), rows, problems) to losses (N, Q); the derivative replaces the logits."""


@dataclass(frozen=True, eq=False)
class Logistic:
    """Logistic regressions for several penalties."""

    weight: Tensor
    """Coefficients, float64 (A, M, P)."""
    bias: Tensor
    """Intercepts, float64 (A, M)."""
    converged: Tensor
    """Whether each penalty's solution was reached within MAX_ITERATIONS, bool (A,)."""


def multinomial(
    x: Tensor,
    labels: Tensor,
    classes: int,
    *,
    inverse_penalties: Sequence[float],
    sample_weight: Tensor | None = None,
    tolerance: float | None = None,
) -> Logistic:
    """Fit one logit for each class, M = C.

    Args:
        x: Features (N, P), float32 or float64.
        labels: Class numbers (N,).
        classes: C; scikit-learn's result for two classes is that of `binary`.
        inverse_penalties: The A values of C, the inverse strength of the penalty.
        sample_weight: Weight of each sample (N,); None: 1.
        tolerance: Largest component of the gradient of the weighted mean loss; None:
            GRADIENT_TOLERANCE / C, but at least MIN_TOLERANCE.
    """
    if tolerance is None:
        tolerance = max(GRADIENT_TOLERANCE / classes, MIN_TOLERANCE)

    def loss(logits_nqm: Tensor, rows: slice, problems: Tensor) -> Tensor:
        true_class = labels[rows, None, None].expand(-1, logits_nqm.shape[1], 1)
        log_probabilities = logits_nqm.log_softmax(2)
        losses = -log_probabilities.gather(2, true_class).squeeze(2)
        torch.exp(log_probabilities, out=logits_nqm)
        logits_nqm.scatter_add_(2, true_class, logits_nqm.new_full(true_class.shape, -1.0))
        return losses

    solver = _Solver(x, loss, sample_weight, curvature=(1 - 1 / classes) / classes, logits=classes)
    weight, bias, converged = solver.solve(inverse_penalties, tolerance=tolerance)
    return Logistic(weight, bias, converged)


def binary(
    x: Tensor,
    targets: Tensor,
    *,
    inverse_penalties: Sequence[float],
    sample_weight: Tensor | None = None,
    tolerance: float = GRADIENT_TOLERANCE / 10,
) -> Logistic:
    """Fit one logit for each of M independent labels.

    Args:
        x: Features (N, P), float32 or float64.
        targets: 0 or 1, (N, M); every label has both.
        inverse_penalties: The A values of C, the inverse strength of the penalty.
        sample_weight: Weight of each sample (N,); None: 1.
        tolerance: Largest component of the gradient of the weighted mean loss.
    """
    labels = targets.shape[1]
    targets = targets.to(x.dtype)

    def loss(logits_nqm: Tensor, rows: slice, problems: Tensor) -> Tensor:
        target = targets[rows][:, problems % labels]
        logits = logits_nqm[:, :, 0]
        losses = torch.nn.functional.softplus(logits) - target * logits
        logits.sigmoid_().sub_(target)
        return losses

    solver = _Solver(x, loss, sample_weight, curvature=1 / 4, logits=1)
    weight, bias, converged = solver.solve(
        [c for c in inverse_penalties for _ in range(labels)], tolerance=tolerance
    )
    shape = (len(inverse_penalties), labels)
    return Logistic(
        weight.reshape(*shape, -1), bias.reshape(shape), converged.reshape(shape).all(1)
    )


class _Solver:
    """Samples in the coordinates in which the problems are solved."""

    def __init__(
        self,
        x: Tensor,
        loss: Loss,
        sample_weight: Tensor | None,
        *,
        curvature: float,
        logits: int,
    ) -> None:
        samples = len(x)
        self._directions: Tensor | None = None
        weight = torch.ones(samples, device=x.device) if sample_weight is None else sample_weight
        self._loss, self._logits = loss, logits
        self._weight = (weight.double() / weight.sum()).to(x.dtype)
        self._total = float(weight.sum())
        if min(x.shape) <= MAX_ROTATED:
            spectrum, left = spectrum_of_samples(x, weight)
            lengths = spectrum.values.sqrt()
            self._mean = spectrum.mean
            self._z = (left * lengths / weight.double().sqrt()[:, None]).to(x.dtype)
            self._directions = (spectrum.basis.double() / spectrum.scale).t()
            squares = spectrum.values
        else:
            self._mean = (self._weight @ x).double()
            self._z = x - self._mean.to(x.dtype)
            squares = (weight.to(x.dtype) @ self._z.square()).double()
        self._curvature = curvature * squares / self._total
        self._intercept_curvature = curvature

    def solve(
        self, inverse_penalties: Sequence[float], *, tolerance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return weight (Q, M, P), bias (Q, M) and convergence (Q,) of one problem for each C."""
        c = torch.as_tensor(inverse_penalties, dtype=torch.float64, device=self._z.device)
        penalty = 1 / (c * self._total)
        scale = (self._curvature + penalty[:, None]).rsqrt()
        scale = torch.cat([scale, scale.new_full((len(c), 1), self._intercept_curvature**-0.5)], 1)
        scale = scale[:, None].expand(-1, self._logits, -1).to(self._z.dtype)

        def objective(problems: Tensor, scaled: Tensor) -> tuple[Tensor, Tensor]:
            factor = scale[problems]
            variables = scaled.view_as(factor) * factor
            values, gradients = self._loss_and_gradient(problems, variables)
            strength = penalty[problems]
            weight = variables[:, :, :-1]
            values += strength * weight.square().sum((1, 2), dtype=torch.float64) / 2
            gradients[:, :, :-1] += strength.to(weight.dtype)[:, None, None] * weight
            return values, (gradients * factor).flatten(1)

        start = torch.zeros_like(scale).flatten(1)
        solution, converged = minimize(
            objective, start, tolerance=tolerance * scale.flatten(1), max_iterations=MAX_ITERATIONS
        )
        variables = (solution.view_as(scale) * scale).double()
        weight, bias = variables[:, :, :-1], variables[:, :, -1]
        if self._directions is not None:
            weight = weight @ self._directions
        return weight, bias - weight @ self._mean, converged

    def _loss_and_gradient(self, problems: Tensor, variables: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted mean loss (Q,) and its gradient (Q, M, R + 1)."""
        weight, bias = variables[:, :, :-1].flatten(0, 1), variables[:, :, -1].flatten()
        values = torch.zeros(len(problems), dtype=torch.float64, device=self._z.device)
        by_weight, by_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        step = max(1, LOGITS_BYTES // (len(bias) * bias.element_size()))
        for first in range(0, len(self._z), step):
            rows = slice(first, first + step)
            z, row_weight = self._z[rows], self._weight[rows]
            logits = torch.addmm(bias, z, weight.t())
            by_problem = logits.view(len(z), len(problems), -1)
            losses = self._loss(by_problem, rows, problems)  # logits now hold its derivative
            values += row_weight.double() @ losses.double()
            logits *= row_weight[:, None]
            by_weight += logits.t() @ z
            by_bias += logits.sum(0)
        gradient = torch.cat([by_weight, by_bias[:, None]], dim=1)
        return values, gradient.view_as(variables)
