"""k nearest neighbors by cosine similarity: all numbers of neighbors and temperatures at once.

The nearest samples of a query are found once, for the largest k; their votes are counted for each
setting. Similarities are computed in tiles of queries, so they need little memory.

Shapes: N training samples, B queries, P features, C classes, A settings, K largest k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TILE_BYTES = 128 * 2**20
"""Similarities that are in memory at a time."""

Setting = tuple[int, float | None]
"""(k, temperature): neighbors vote with exp(cosine similarity / temperature), or equally (None)."""


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Training samples to look up."""

    x: Tensor
    """Features of unit length (N, P), those of a class together if there is one class each."""
    targets: Tensor
    """Class numbers (N,) ascending, or 0/1 for each class (N, C)."""
    classes: int
    """C."""

    @classmethod
    def of(cls, x: Tensor, targets: Tensor, classes: int) -> Neighbors:
        """Return training samples in the order in which they are looked up.

        Args:
            x: Features (N, P).
            targets: Class numbers (N,), or 0/1 for each class (N, C).
            classes: C.
        """
        unit = torch.nn.functional.normalize(x, dim=1)
        if targets.ndim == 2:
            return cls(unit, targets, classes)
        order = torch.argsort(targets, stable=True)
        return cls(unit[order], targets[order], classes)

    def votes(self, x: Tensor, settings: Sequence[Setting]) -> tuple[Tensor, Tensor]:
        """Return the votes of the neighbors of each query.

        If there are fewer than k samples, all of them vote.

        Args:
            x: Features (B, P), of any length.
            settings: The A settings.

        Returns:
            Shares (A, B, C), float32: of the votes for each class, which sum to 1; or, for several
            labels, of the votes of samples that have the label. And the cosine similarity of the
            nearest sample of each class (B, C), -inf without samples.
        """
        rows = max(1, TILE_BYTES // (len(self.x) * x.element_size()))
        shares, nearest = [], []
        for start in range(0, len(x), rows):
            query = torch.nn.functional.normalize(x[start : start + rows], dim=1)
            similarity = query @ self.x.t()
            nearest.append(self.nearest(similarity))
            shares.append(self.shares(similarity, settings))
        if not shares:
            return x.new_zeros((len(settings), 0, self.classes)), x.new_zeros((0, self.classes))
        return torch.cat(shares, dim=1), torch.cat(nearest)

    def shares(self, similarity: Tensor, settings: Sequence[Setting]) -> Tensor:
        """Return the shares of `votes` (A, B, C) from the similarities of all samples (B, N)."""
        largest = min(max(k for k, _ in settings), similarity.shape[1])
        top, index = similarity.topk(largest, dim=1)
        neighbors = self.targets[index]
        shares = []
        for k, temperature in settings:
            votes = torch.ones_like(top[:, :k])
            if temperature is not None:
                votes = ((top[:, :k] - top[:, :1]) / temperature).exp()
            votes = votes / votes.sum(1, keepdim=True)
            if self.targets.ndim == 2:
                shares.append(torch.einsum("bk,bkc->bc", votes, neighbors[:, :k].to(votes.dtype)))
            else:
                share = votes.new_zeros((len(votes), self.classes))
                shares.append(share.scatter_add_(1, neighbors[:, :k], votes))
        return torch.stack(shares).float()

    def nearest(self, similarity: Tensor) -> Tensor:
        """Return the similarity of each class's nearest sample (B, C), of all samples (B, N)."""
        nearest = similarity.new_full((len(similarity), self.classes), -torch.inf)
        if self.targets.ndim == 2:
            for label in range(self.classes):
                having = self.targets[:, label] > 0
                if having.any():
                    nearest[:, label] = similarity[:, having].amax(1)
            return nearest
        present, counts = torch.unique_consecutive(self.targets, return_counts=True)
        start = 0
        for label, count in zip(present.tolist(), counts.tolist(), strict=True):
            nearest[:, label] = similarity[:, start : start + count].amax(1)
            start += count
        return nearest


def ranks_among_ties(shares: Tensor, nearest: Tensor) -> Tensor:
    """Return how many classes with the same share have a nearer sample, int64 (B, C).

    Args:
        shares: (B, C).
        nearest: Similarity of each class's nearest sample (B, C).
    """
    by_nearest = torch.argsort(nearest, dim=1, descending=True, stable=True)
    by_share = torch.argsort(shares.gather(1, by_nearest), dim=1, descending=True, stable=True)
    order = by_nearest.gather(1, by_share)
    ordered = shares.gather(1, order)
    positions = torch.arange(shares.shape[1], device=shares.device).expand_as(order)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = torch.where(is_first, positions, 0).cummax(1).values
    return torch.empty_like(order).scatter_(1, order, positions - first)
