"""Ridge regression and discriminant analysis, one Cholesky decomposition for each setting.

It takes about a thirtieth of an eigendecomposition of the same size, which gives all settings: it
is the faster way where few settings are tried.

Shapes: P features, M targets, C classes.
"""

from __future__ import annotations

import math

from torch import Tensor

from layercache.probing.closed_form.blocked_cholesky import decompose, solve_decomposed
from layercache.probing.closed_form.moments import Moments

Coefficients = tuple[Tensor, Tensor]
"""Weight (M, P) and bias (M,), float64."""
ROUNDING = 1e-6
"""Variance within classes, relative to all, that rounding in single precision may leave."""
RESIDUAL = 1e-10
"""Residual of a solution, relative to the right side."""
MAX_CORRECTIONS = 6
"""Corrections after which a solution in single precision is given up."""


class ShiftedMatrix:
    """Solves (A + s I) x = b for one shift s after another.

    The decomposition is one in single precision, which takes half of the time or less. Its solution
    is corrected until the residual in double precision vanishes; that converges unless the matrix
    is too ill-conditioned, and then it is decomposed in double precision.
    """

    def __init__(self, matrix: Tensor) -> None:
        """Keep the matrix in both precisions.

        Args:
            matrix: A, symmetric, float64 (P, P).
        """
        self.matrix = matrix
        self._single = matrix.float()

    def solve(self, right: Tensor, *, shift: float = 0.0) -> Tensor | None:
        """Return the solution (P, M), or None if the shifted matrix is not positive definite.

        Args:
            right: b, float64 (P, M).
            shift: s.
        """
        refined = self._solve_refined(right, shift)
        if refined is not None:
            return refined
        shifted = self.matrix.clone()
        shifted.diagonal().add_(shift)
        factor = decompose(shifted)
        return None if factor is None else solve_decomposed(right, factor)

    def _solve_refined(self, right: Tensor, shift: float) -> Tensor | None:
        """Return a corrected solution in single precision, or None if it does not converge."""
        shifted = self._single.clone()
        shifted.diagonal().add_(shift)
        factor = decompose(shifted)
        if factor is None:
            return None
        scale = float(right.norm())
        solution = solve_decomposed(right.float(), factor).double()
        for correction in range(MAX_CORRECTIONS):
            # the matrix is symmetric, and a product from the left reads it row by row
            residual = right - (solution.t() @ self.matrix).t() - shift * solution
            left = float(residual.norm()) / scale if scale else 0.0
            if left <= RESIDUAL:
                return solution
            solution = solution + solve_decomposed(residual.float(), factor)
            if correction == 0 and left**2 <= RESIDUAL / 10:
                return solution  # each correction reduces the residual by the same factor
        return None


class RidgeSystem:
    """Ridge regressions of given moments, see `ridge`."""

    def __init__(self, moments: Moments) -> None:
        """Prepare the system of equations.

        Args:
            moments: Moments of features and targets.
        """
        self._scatter = ShiftedMatrix(moments.scatter)
        self._cross = moments.cross
        self._mean, self._target_mean = moments.mean, moments.target_mean

    def coefficients(self, penalty: float) -> Coefficients | None:
        """Return the regression of one penalty, or None if it is below rounding errors."""
        weight = self._scatter.solve(self._cross, shift=penalty)
        if weight is None:
            return None
        return weight.t(), self._target_mean - weight.t() @ self._mean


class DiscriminantSystem:
    """Discriminant analyses of given moments, see `lda`."""

    def __init__(self, moments: Moments) -> None:
        """Prepare the system of equations.

        Args:
            moments: Moments of features and one-hot targets.
        """
        within = moments.within_scatter
        features, total = len(within), float(within.diagonal().sum())
        if total <= ROUNDING * float(moments.scatter_diagonal.sum()):
            within.zero_()  # one sample of each class: the nearest class mean
            total = float(moments.weight)
        self._within = ShiftedMatrix(within)
        self._weight = float(moments.weight)
        self._sphere = total / self._weight / features
        self._mean = moments.mean
        self._deviations = (moments.class_means - moments.mean).nan_to_num(0.0).t()
        priors = moments.class_weights / moments.weight
        self._log_priors = priors.clamp_min(0).log().where(priors > 0, -math.inf)

    def coefficients(self, shrinkage: float) -> Coefficients | None:
        """Return the analysis of one shrinkage.

        Args:
            shrinkage: Above 0 and at most 1.

        Returns:
            Its coefficients, with a bias of -inf for classes without samples, or None if the
            shrinkage is below rounding errors.
        """
        identity, share = shrinkage * self._sphere, (1 - shrinkage) / self._weight
        if share == 0:
            weight: Tensor | None = self._deviations / identity
        else:
            weight = self._within.solve(self._deviations / share, shift=identity / share)
        if weight is None:
            return None
        offset = self._log_priors - (self._deviations * weight).sum(0) / 2
        return weight.t(), offset - weight.t() @ self._mean
