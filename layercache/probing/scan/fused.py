"""Moments of the concatenated tokens of a subset, in the smaller of samples and features.

Shapes: N samples, k tokens of the subset, D width, P = k D features, M targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """Moments of the features, or of coordinates of the samples in an orthonormal basis."""
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


@dataclass(frozen=True, eq=False)
class SampleProducts:
    """Products of all pairs of samples, from which those of any part of the samples follow."""

    tokens: tuple[Tensor, ...]
    """Tokens of the samples minus `shift`, k times float32 (N, D)."""
    shift: Tensor
    """Point that they are measured from, float64 (P,)."""
    products: Tensor
    """Sum over the tokens of x x', float64 (N, N)."""


def multiply_samples(
    tokens: Mapping[int, Tensor], subsets: Iterable[Sequence[int]]
) -> dict[tuple[int, ...], SampleProducts]:
    """Return the products of samples for each subset; one that is part of another adds to it.

    Args:
        tokens: Normalized tokens of the samples by number, float32 (N, D); overwritten.
        subsets: Numbers of the tokens of each subset.
    """
    shift = {s: x.mean(0) for s, x in tokens.items()}
    for s, x in tokens.items():
        x -= shift[s]
    by_subset: dict[tuple[int, ...], SampleProducts] = {}
    for subset in sorted(map(tuple, subsets), key=len):
        parts = [known for known in by_subset if set(known) <= set(subset)]
        part = max(parts, key=len, default=())
        samples = len(tokens[subset[0]])
        if part:
            products = by_subset[part].products.clone()
        else:
            products = tokens[subset[0]].new_zeros((samples, samples), dtype=torch.float64)
        for s in subset:
            if s not in part:
                products += tokens[s] @ tokens[s].t()
        by_subset[subset] = SampleProducts(
            tokens=tuple(tokens[s] for s in subset),
            shift=torch.cat([shift[s] for s in subset]).double(),
            products=products,
        )
    return by_subset


def fuse_samples(
    samples: SampleProducts, y: Tensor, weight: Tensor, *, index: Tensor | None = None
) -> Fused:
    """Return moments in the coordinates of the samples; less work if N < P.

    With centered, weighted samples R and R R' = L L', the rows of L are coordinates of the samples
    in an orthonormal basis of what they span. Coefficients c of the coordinates are those of the
    features by R' L^-T c.

    Args:
        samples: Products of samples.
        y: Targets of those to take, float64 (N, M).
        weight: Weight of each of them, float64 (N,).
        index: Numbers of those to take, (N,); None: all.
    """
    index = torch.arange(len(samples.products), device=y.device) if index is None else index
    root, share = weight.sqrt(), weight / weight.sum()
    products = samples.products[index][:, index]
    row_means = products @ share
    centered = products - row_means[:, None] - row_means + share @ row_means
    centered *= root[:, None] * root
    diagonal = centered.diagonal()
    diagonal.add_(JITTER * diagonal.mean() + torch.finfo(torch.float32).tiny)
    factor = torch.linalg.cholesky(centered)
    moments = Moments(len(y), y.shape[1], device=y.device)
    moments.add(factor / root[:, None], y, weight)
    offsets = [share.float() @ x[index] for x in samples.tokens]

    def back(coefficients: Tensor) -> Tensor:
        dual = torch.linalg.solve_triangular(factor.t(), coefficients.t(), upper=True).t() * root
        scattered = dual.new_zeros((len(dual), len(samples.products)))
        scattered[:, index] = dual
        total = dual.sum(1).float()
        parts = [
            scattered.float() @ x - torch.outer(total, offset)
            for x, offset in zip(samples.tokens, offsets, strict=True)
        ]
        return torch.cat(parts, dim=1).double()

    mean = samples.shift + torch.cat(offsets).double()
    return Fused(moments, len(mean), mean, back)
