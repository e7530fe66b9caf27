"""Ridge regression with an intercept: all penalties from one eigendecomposition.

Minimizes, for weights w_i and a penalty α, over coefficients b (M, P) and an intercept c (M,)

    sum over i of  w_i |y_i - b x_i - c|²  +  α |b|²,

the objective of scikit-learn's `Ridge`. With the centered features X' W X = V S V' it is solved by
b' = V (S + α)^-1 V' X' W y for every α at once. The intercept is not penalized.

Shapes: N training samples, B samples, P features, M targets, A penalties, R directions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from layercache.probing.closed_form.moments import Moments
from layercache.probing.closed_form.spectrum import (
    Spectrum,
    spectrum_of_samples,
    spectrum_of_scatter,
)


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
    weight = weights_or_ones(x, sample_weight)
    if len(x) <= x.shape[1]:
        return fit_samples(x, y, weight)[0]
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


def fit_samples(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Ridge, Tensor]:
    """Fit a ridge regression for every penalty to fewer samples than features.

    Args:
        x: Features (N, P), float32 or float64.
        y: Targets (N, M).
        weight: Weight of each sample, float64 (N,).

    Returns:
        The regression, and the left singular vectors of the centered, weighted samples (N, R).
    """
    y = y.double()
    target_mean = weight @ y / weight.sum()
    spectrum, left = spectrum_of_samples(x, weight)
    scaled = (y - target_mean) * weight.sqrt()[:, None]
    # X' W y along a direction of length `scale` is sqrt(values) / scale times that along U
    loadings = (left.t() @ scaled) * (spectrum.values.sqrt() / spectrum.scale)[:, None]
    return Ridge(spectrum, loadings, target_mean), left


def weights_or_ones(x: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Return the weights of the samples of x (N, P), float64 (N,); ones for None."""
    if sample_weight is None:
        return torch.ones(len(x), dtype=torch.float64, device=x.device)
    return sample_weight.double()
