"""Eigendecomposition of the scatter of weighted samples, in the smaller of N and P dimensions.

Shapes: N samples, P features, R directions that the samples span, R <= min(N - 1, P).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

COLUMNS = 4096
"""Features of one product in the features' own precision; the products are added in float64."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Scatter X' W X = B diag(values / scale²) B' of features around their mean.

    The columns of `basis` B are orthogonal. They have unit length if the scatter itself was
    decomposed; if that of N < P samples was decomposed as the smaller product of samples, X X',
    their lengths are the roots of `values`, so that nothing is divided by a small value.
    """

    values: Tensor
    """Eigenvalues, descending, above the rounding error of the largest, float64 (R,)."""
    basis: Tensor
    """Orthogonal directions (P, R), in the features' dtype."""
    scale: Tensor
    """Lengths of the columns of `basis`, float64 (R,)."""
    mean: Tensor
    """Weighted mean of the features, float64 (P,)."""

    def project(self, x: Tensor) -> Tensor:
        """Return the coordinates of features (B, P) along `basis`, (B, R), in their dtype."""
        return (x - self.mean.to(x.dtype)) @ self.basis.to(x.dtype)


def spectrum_of_scatter(scatter: Tensor, mean: Tensor, *, dtype: torch.dtype) -> Spectrum:
    """Return the spectrum of a scatter matrix.

    Args:
        scatter: (P, P) float64.
        mean: Mean of the features (P,).
        dtype: Dtype of the features, whose rounding errors the scatter has.
    """
    values, basis = torch.linalg.eigh(scatter)
    values, basis = _significant(values, basis, dtype=dtype)
    return Spectrum(values, basis.to(dtype), torch.ones_like(values), mean)


def spectrum_of_samples(x: Tensor, weight: Tensor) -> tuple[Spectrum, Tensor]:
    """Return the spectrum of samples, and their left singular vectors (N, R), float64.

    Args:
        x: Features (N, P), float32 or float64.
        weight: Weight of each sample (N,), above zero.
    """
    weight = weight.double()
    mean = ((weight / weight.sum()).to(x.dtype) @ x).double()
    root = weight.sqrt().to(x.dtype)[:, None]
    scaled = (x - mean.to(x.dtype)) * root
    if len(x) > x.shape[1]:
        spectrum = spectrum_of_scatter(_gram(scaled.t()), mean, dtype=x.dtype)
        left = (scaled @ spectrum.basis).double() / spectrum.values.sqrt()
        return spectrum, left
    values, left = torch.linalg.eigh(_gram(scaled))
    values, left = _significant(values, left, dtype=x.dtype)
    basis = scaled.t() @ left.to(x.dtype)
    return Spectrum(values, basis, values.sqrt(), mean), left


def _gram(x: Tensor) -> Tensor:
    """Return x x' in float64, (A, A) of (A, B)."""
    total = torch.zeros((len(x), len(x)), dtype=torch.float64, device=x.device)
    for start in range(0, x.shape[1], COLUMNS):
        part = x[:, start : start + COLUMNS]
        total += part @ part.t()
    return total


def _significant(values: Tensor, vectors: Tensor, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues above rounding error, descending, and their eigenvectors."""
    values, vectors = values.flip(0), vectors.flip(1)
    kept = values > 10 * torch.finfo(dtype).eps * values[0].clamp_min(0)
    return values[kept], vectors[:, kept]
