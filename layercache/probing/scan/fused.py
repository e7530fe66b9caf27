"""Moments of the concatenated tokens of a subset, in the smaller of samples and features.

Shapes: N samples, k tokens of the subset, D width, P = k D features, M targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layercache.probing.closed_form.moments import Moments

JITTER = 1e-6
"""Added to the products of samples, relative to their mean square, as these have rank N - 1."""


@dataclass(frozen=True, eq=False)
class Fused:
    """Moments of a subset, and the way back from coefficients to those of its tokens."""

    moments: Moments
    """Of the features, or of coordinates of the samples in an orthonormal basis."""
    features: int
    """P."""
    mean: Tensor
    """Mean of the features, float64 (P,)."""
    back: Callable[[Tensor], Tensor]
    """Coefficients (M, R) of the moments to those of the features (M, P)."""

    def expand(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return coefficients (M, P) and bias (M,) of the features from those of the moments."""
        expanded = self.back(weight)
        bias = bias + weight @ self.moments.mean - expanded @ self.mean
        return expanded, bias


def fuse_features(moments: Moments) -> Fused:
    """Return moments of features as they are."""
    return Fused(moments, len(moments.mean), moments.mean, lambda weight: weight)


def fuse_samples(tokens: Sequence[Tensor], y: Tensor, weight: Tensor) -> Fused:
    """Return moments in the coordinates of the samples; less work if N < P.

    With centered, weighted samples R and R R' = L L', the rows of L are coordinates of the samples
    in an orthonormal basis of what they span. Coefficients c of the coordinates are those of the
    features by R' L^-T c.

    Args:
        tokens: Normalized tokens of the samples, k times float32 (N, D).
        y: Targets, float64 (N, M).
        weight: Weight of each sample, float64 (N,).
    """
    root = weight.sqrt()
    share = (weight / weight.sum()).float()
    means = [share @ x for x in tokens]
    rows = [(x - mean) * root.float()[:, None] for x, mean in zip(tokens, means, strict=True)]
    products = torch.zeros((len(y), len(y)), dtype=torch.float64, device=y.device)
    for r in rows:
        products += r @ r.t()
    diagonal = products.diagonal()
    diagonal.add_(JITTER * diagonal.mean() + torch.finfo(torch.float32).tiny)
    factor = torch.linalg.cholesky(products)
    moments = Moments(len(y), y.shape[1], device=y.device)
    moments.add(factor / root[:, None], y, weight)

    def back(coefficients: Tensor) -> Tensor:
        dual = torch.linalg.solve_triangular(factor.t(), coefficients.t(), upper=True).t().float()
        return torch.cat([dual @ r for r in rows], dim=1).double()

    features = sum(x.shape[1] for x in tokens)
    return Fused(moments, features, torch.cat(means).double(), back)
