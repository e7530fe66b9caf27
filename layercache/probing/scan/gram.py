"""Gram matrices (products of all pairs of samples), for subsets of more features than samples.

Shapes: N samples, k tokens of a subset, D width, P = k D features, M targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layercache.probing.closed_form.cholesky import Coefficients

TILE = 256
"""Columns of a tile of the products, of which those above the diagonal are not computed."""
FEATURES = 4096
"""Features of which products are added in single precision; their sums are added in double."""


@dataclass(frozen=True, eq=False)
class GramMatrix:
    """Gram matrix of samples, of which that of any part of the samples is a part."""

    tokens: tuple[Tensor, ...]
    """Tokens of the samples minus `shift`, k times float32 (N, D)."""
    shift: Tensor
    """Point that they are measured from, float64 (P,)."""
    matrix: Tensor
    """Sum over the tokens of x x', float64 (N, N)."""

    def of_features(self, coefficients: Tensor, bias: Tensor, index: Tensor) -> Coefficients:
        """Return weight (M, P) and bias (M,) of the features from coefficients of samples.

        Args:
            coefficients: Of some samples, float64 (M, n).
            bias: float64 (M,).
            index: Numbers of these samples, (n,).
        """
        scattered = coefficients.new_zeros((len(coefficients), len(self.matrix)))
        scattered[:, index] = coefficients
        weight = torch.cat([scattered.float() @ x for x in self.tokens], dim=1).double()
        return weight, bias - weight @ self.shift


def gram_matrices(
    tokens: Mapping[int, Tensor], subsets: Iterable[Sequence[int]]
) -> dict[tuple[int, ...], GramMatrix]:
    """Return the Gram matrix of each subset; those of its parts are reused.

    Args:
        tokens: Normalized tokens of the samples by number, float32 (N, D); overwritten.
        subsets: Numbers of the tokens of each subset.
    """
    shift = {s: x.mean(0) for s, x in tokens.items()}
    for s, x in tokens.items():
        x -= shift[s]
    by_subset: dict[tuple[int, ...], GramMatrix] = {}
    for subset in sorted(map(tuple, subsets), key=len):
        parts = [known for known in by_subset if set(known) <= set(subset)]
        part = max(parts, key=len, default=())
        if part:
            matrix = by_subset[part].matrix.clone()
        else:
            samples = len(tokens[subset[0]])
            matrix = tokens[subset[0]].new_zeros((samples, samples), dtype=torch.float64)
        _add_products(matrix, [tokens[s] for s in subset if s not in part])
        by_subset[subset] = GramMatrix(
            tokens=tuple(tokens[s] for s in subset),
            shift=torch.cat([shift[s] for s in subset]).double(),
            matrix=matrix,
        )
    return by_subset


def _add_products(total: Tensor, tokens: Sequence[Tensor]) -> None:
    """Add the products x x' of tokens (N, D) to a symmetric matrix (N, N), half of it computed."""
    together = max(1, FEATURES // tokens[0].shape[1])
    for start in range(0, len(total), TILE):
        columns = slice(start, start + TILE)
        for first in range(0, len(tokens), together):
            x, *others = tokens[first : first + together]
            tile = x[start:] @ x[columns].t()
            for x in others:
                tile.addmm_(x[start:], x[columns].t())
            total[start:, columns] += tile
        total[columns, start + TILE :] = total[start + TILE :, columns].t()
