"""Dual form of ridge regression and discriminant analysis, from the Gram matrix, for N < P.

With the centered samples R, row i scaled by the root of its weight w_i, and their Gram matrix
K = R R', the solutions are combinations R' a of the samples. Those of ridge regression on centered
targets Y, scaled alike, are

    a = (K + α I)^-1 Y.

The classes' means deviate by R' B, and their part in the samples is taken away by a projection M of
rank N - C, so that the scatter within the classes is R' M R. With its shrunk covariance c R' M R +
s I the discriminant analysis has, by the Woodbury identity,

    a = (B - M (M K M + s/c I)^-1 M K B) / s.

Shapes: N samples, P features, M targets, C classes, A samples of which N are fitted to.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from layercache.probing.closed_form.cholesky import ROUNDING, Coefficients, ShiftedMatrix


class CenteredGram:
    """Gram matrix of weighted samples around their mean."""

    def __init__(self, gram: Tensor, weight: Tensor) -> None:
        """Center the Gram matrix.

        Args:
            gram: Gram matrix of the samples as they are, float64 (N, N).
            weight: Weight of each sample, float64 (N,).
        """
        self.weight, self.root = weight, weight.sqrt()
        self.share = weight / weight.sum()
        self.row_means = gram @ self.share
        self.mean_square = self.share @ self.row_means
        """Product of the mean with itself, ()."""
        centered = gram - self.row_means[:, None]
        centered -= self.row_means
        centered += self.mean_square
        centered *= self.root[:, None]
        centered *= self.root
        self.matrix = centered
        """K, float64 (N, N)."""

    def expand(self, dual: Tensor, offset: Tensor) -> Coefficients:
        """Return coefficients of the samples as they are from those of the centered ones.

        Args:
            dual: a, float64 (N, M).
            offset: Outputs at the mean, float64 (M,).

        Returns:
            Coefficients e (M, N) and bias (M,): the outputs of x are the sum of e_i times the
            product of x and x_i, plus the bias.
        """
        scaled = (dual * self.root[:, None]).t()
        coefficients = scaled - torch.outer(scaled.sum(1), self.share)
        return coefficients, offset - coefficients @ self.row_means


class DualRidge:
    """Ridge regressions of samples with a given Gram matrix, see `ridge`."""

    def __init__(self, centered: CenteredGram, y: Tensor) -> None:
        """Prepare the system of equations.

        Args:
            centered: Gram matrix of the samples.
            y: Targets, float64 (N, M).
        """
        self._centered = centered
        self._target_mean = centered.share @ y
        self._right = (y - self._target_mean) * centered.root[:, None]
        # K has no part along the root weights, nor has the right side: any other value will do
        along = centered.root / centered.root.norm()
        scale = float(centered.matrix.diagonal().mean())
        self._system = ShiftedMatrix(torch.addr(centered.matrix, along, along, alpha=scale))

    def coefficients(self, penalty: float) -> Coefficients | None:
        """Return coefficients of the samples for one penalty, None if it is below rounding."""
        dual = self._system.solve(self._right, shift=penalty)
        return None if dual is None else self._centered.expand(dual, self._target_mean)


class DualDiscriminant:
    """Discriminant analyses of samples with a given Gram matrix, see `lda`."""

    def __init__(self, centered: CenteredGram, y: Tensor, *, features: int) -> None:
        """Prepare the system of equations.

        Args:
            centered: Gram matrix of the samples.
            y: One-hot targets, float64 (N, C).
            features: P.
        """
        self._centered = centered
        class_weight = centered.weight @ y
        self._total_weight = float(class_weight.sum())
        priors = class_weight / class_weight.sum()
        self._log_priors = priors.clamp_min(0).log().where(priors > 0, -math.inf)
        present_weight = class_weight.where(class_weight > 0, 1.0)
        self._sides = y * (centered.root[:, None] / present_weight)
        self._units = y * (centered.root[:, None] / present_weight.sqrt())
        self._deviations = centered.matrix @ self._sides
        # M K M = K - U V' - V U', with the orthonormal columns U that M = I - U U' takes away
        units = self._units
        products = centered.matrix @ units
        others = products - units @ (units.t() @ products) / 2
        left, right = torch.cat([units, others], dim=1), torch.cat([others, units], dim=1)
        within = torch.addmm(centered.matrix, left, right.t(), alpha=-1)
        total = float(within.diagonal().sum())
        self._spread = total > ROUNDING * float(centered.matrix.diagonal().sum())
        self._sphere = (total / self._total_weight if self._spread else 1.0) / features
        # M K M has no part along the classes, nor has the right side: any other value will do
        within.addmm_(units, units.t(), alpha=float(within.diagonal().mean()))
        self._system = ShiftedMatrix(within)

    def coefficients(self, shrinkage: float) -> Coefficients | None:
        """Return coefficients of the samples for one shrinkage, None if it is below rounding.

        Args:
            shrinkage: Above 0 and at most 1.
        """
        identity, share = shrinkage * self._sphere, (1 - shrinkage) / self._total_weight
        dual = self._sides / identity
        if share > 0 and self._spread:
            right = self._project(self._deviations) / identity
            within = self._system.solve(right, shift=identity / share)
            if within is None:
                return None
            dual = dual - self._project(within)
        offset = self._log_priors - (self._deviations * dual).sum(0) / 2
        return self._centered.expand(dual, offset)

    def _project(self, x: Tensor) -> Tensor:
        """Return M x, the part of (N, M) without the classes' means."""
        return x - self._units @ (self._units.t() @ x)
