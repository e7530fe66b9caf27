"""Ridge regression with an intercept: all penalties from one eigendecomposition.

Minimizes, for weights w_i and a penalty α, over coefficients b (M, P) and an intercept c (M,)

    sum over i of  w_i |y_i - b x_i - c|²  +  α |b|²,

the objective of scikit-learn's `Ridge`. With the centered features X' W X = V S V' it is solved by
b' = V (S + α)^-1 V' X' W y for every α at once. The intercept is not penalized.

Shapes: N training samples, B samples, P features, M targets, A penalties, R directions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layercache.probing.closed_form.moments import Moments
from layercache.probing.closed_form.spectrum import (
    Spectrum,
    spectrum_of_samples,
    spectrum_of_scatter,
)

UNDETERMINED = 1e-12
"""Share of the other samples in a prediction below which it is not computed."""


@dataclass(frozen=True, eq=False)
class Ridge:
    """A ridge regression for every penalty."""

    spectrum: Spectrum
    """Spectrum of the training samples."""
    loadings: Tensor
    """Cross products of samples and targets along the directions, float64 (R, M)."""
    target_mean: Tensor
    """Weighted mean of the targets, float64 (M,)."""

    def coefficients(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Return (weight (M, P), bias (M,)), float64, for one penalty."""
        weight = (self.spectrum.basis.double() @ self._shrunk(penalty)).t()
        return weight, self.target_mean - weight @ self.spectrum.mean

    def predict(self, x: Tensor, penalties: Iterable[float]) -> Iterator[Tensor]:
        """Yield predictions (B, M), in the features' dtype, for each penalty.

        Args:
            x: Features (B, P).
            penalties: Penalties; zero or above.
        """
        projected, mean = self.spectrum.project(x), self.target_mean.to(x.dtype)
        for penalty in penalties:
            yield projected @ self._shrunk(penalty).to(x.dtype) + mean

    def _shrunk(self, penalty: float) -> Tensor:
        return self.loadings / (self.spectrum.values + penalty)[:, None]


def ridge(x: Tensor, y: Tensor, *, sample_weight: Tensor | None = None) -> Ridge:
    """Fit a ridge regression for every penalty, in the smaller of N and P dimensions.

    Args:
        x: Features (N, P), float32 or float64. Products of single precision are added in double.
        y: Targets (N, M): values, or `targets.one_hot` classes.
        sample_weight: Weight of each sample (N,), above zero; None: 1.
    """
    weight = _weights(x, sample_weight)
    if len(x) <= x.shape[1]:
        return _fit(x, y, weight)[0]
    moments = Moments(x.shape[1], y.shape[1], device=x.device)
    moments.add(x, y, weight)
    return ridge_of_moments(moments, dtype=x.dtype)


def ridge_of_moments(moments: Moments, *, dtype: torch.dtype = torch.float32) -> Ridge:
    """Fit a ridge regression for every penalty to moments of samples that were streamed.

    Args:
        moments: Moments of features and targets.
        dtype: Dtype of the features that were added.
    """
    spectrum = spectrum_of_scatter(moments.scatter, moments.mean, dtype=dtype)
    loadings = spectrum.basis.double().t() @ moments.cross
    return Ridge(spectrum, loadings, moments.target_mean)


def leave_one_out(
    x: Tensor, y: Tensor, penalties: Sequence[float], *, sample_weight: Tensor | None = None
) -> Tensor:
    """Return the prediction for each sample by the regression on all others, float64 (A, N, M).

    With the left singular vectors U of the centered, weighted samples, the residual of a sample is
    divided by 1 - h, where h is its own weight in its prediction,

        h_i = w_i / W + sum over j of U_ij² S_j / (S_j + α).

    Both the residual and 1 - h are computed as the part outside of U plus the part that the penalty
    takes away, so that none of them is a small difference of large numbers. The other samples keep
    their weights. The prediction is NaN where the others do not determine it (α = 0 and h = 1).

    Args:
        x: Features (N, P), float32 or float64.
        y: Targets (N, M).
        penalties: The A penalties; zero or above.
        sample_weight: Weight of each sample (N,), above zero; None: 1.
    """
    weight = _weights(x, sample_weight)
    fitted, left = _fit(x, y, weight)
    y = y.double()
    root = weight.sqrt()[:, None]
    scaled = (y - fitted.target_mean) * root
    along = left.t() @ scaled
    outside = scaled - left @ along
    squares = left.square()
    free = (1 - weight / weight.sum() - squares.sum(1)).clamp_min(0)
    predictions = []
    for penalty in penalties:
        kept = penalty / (fitted.spectrum.values + penalty)
        residual = outside + left @ (along * kept[:, None])
        others = free + squares @ kept
        others = others.where(others > UNDETERMINED, torch.nan)
        predictions.append(y - residual / root / others[:, None])
    return torch.stack(predictions)


def _fit(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Ridge, Tensor]:
    """Return the regression and the left singular vectors of the samples (N, R)."""
    y = y.double()
    target_mean = weight @ y / weight.sum()
    spectrum, left = spectrum_of_samples(x, weight)
    scaled = (y - target_mean) * weight.sqrt()[:, None]
    # X' W y along a direction of length `scale` is sqrt(values) / scale times that along U
    loadings = (left.t() @ scaled) * (spectrum.values.sqrt() / spectrum.scale)[:, None]
    return Ridge(spectrum, loadings, target_mean), left


def _weights(x: Tensor, sample_weight: Tensor | None) -> Tensor:
    if sample_weight is None:
        return torch.ones(len(x), dtype=torch.float64, device=x.device)
    return sample_weight.double()
