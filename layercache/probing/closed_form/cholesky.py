"""Ridge regression and discriminant analysis for one setting, by one Cholesky decomposition.

It takes about a thirtieth of an eigendecomposition of the same size, which gives all settings: it
is the faster way where few settings are tried.

Shapes: P features, M targets, C classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from layercache.probing.closed_form.moments import Moments

Coefficients = tuple[Tensor, Tensor]
"""Weight (M, P) and bias (M,), float64."""
ROUNDING = 1e-6
"""Variance within classes, relative to all, that rounding in single precision may leave."""
RESIDUAL = 1e-10
"""Residual of a solution, relative to the right side."""
MAX_CORRECTIONS = 6
"""Corrections after which a solution in single precision is given up."""


def ridge_coefficients(moments: Moments, penalty: float) -> Coefficients | None:
    """Return the ridge regression of one penalty, see `ridge`.

    Returns:
        Its coefficients, or None if the penalty is below the rounding errors of the moments.
    """
    matrix = moments.scatter
    matrix.diagonal().add_(penalty)
    weight = _solve(matrix, moments.cross)
    if weight is None:
        return None
    return weight.t(), moments.target_mean - weight.t() @ moments.mean


def lda_coefficients(
    moments: Moments, shrinkage: float, *, features: int | None = None
) -> Coefficients | None:
    """Return the discriminant analysis of one shrinkage, see `lda`.

    Args:
        moments: Moments of features and one-hot targets.
        shrinkage: Above 0 and at most 1.
        features: P, the number of features of which those of the moments are coordinates; None:
            those of the moments themselves.

    Returns:
        Its coefficients, with a bias of -inf for classes without samples, or None if the shrinkage
        is below the rounding errors of the moments.
    """
    matrix = moments.within_scatter.div_(moments.weight)
    total = float(matrix.diagonal().sum())
    if total <= ROUNDING * float(moments.scatter.diagonal().sum() / moments.weight):
        matrix.zero_()  # one sample of each class: the nearest class mean
        total = 1.0
    sphere = total / (features or len(matrix))
    matrix.mul_(1 - shrinkage).diagonal().add_(shrinkage * sphere)
    deviations = (moments.class_means - moments.mean).nan_to_num(0.0).t()
    weight = _solve(matrix, deviations)
    if weight is None:
        return None
    priors = moments.class_weights / moments.weight
    log_priors = priors.clamp_min(0).log().where(priors > 0, -math.inf)
    offset = log_priors - (deviations * weight).sum(0) / 2
    return weight.t(), offset - weight.t() @ moments.mean


def _solve(matrix: Tensor, right: Tensor) -> Tensor | None:
    """Return matrix^-1 right (P, M), or None if the matrix is not positive definite."""
    refined = _solve_refined(matrix, right)
    if refined is not None:
        return refined
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        return None
    return torch.cholesky_solve(right, factor)


def _solve_refined(matrix: Tensor, right: Tensor) -> Tensor | None:
    """Solve in single precision and correct the solution until its residual in double vanishes.

    A decomposition in single precision takes a third of the time. The corrections converge unless
    the matrix is too ill-conditioned for it; then None is returned.
    """
    factor, info = torch.linalg.cholesky_ex(matrix.float())
    if int(info):
        return None
    solution = torch.zeros_like(right)
    residual = right
    limit = RESIDUAL * float(right.norm())
    for _ in range(MAX_CORRECTIONS):
        solution = solution + torch.cholesky_solve(residual.float(), factor)
        residual = right - matrix @ solution
        if float(residual.norm()) <= limit:
            return solution
    return None
