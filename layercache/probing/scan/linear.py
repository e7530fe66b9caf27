"""A linear head of a scan, the settings of ridge and lda, and the search among them.

Shapes: k tokens of a subset, D width, P = k D features, M targets, B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GRIDS = {
    "ridge": tuple(10.0**i for i in range(-4, 7)),
    "lda": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 1.0),
}
"""Settings of each head, ascending."""
NAMES = {"ridge": "alpha", "lda": "shrinkage"}
"""Name of the setting of each head."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear head on a subset."""

    weight: Tensor
    """float32 (M, P)."""
    bias: Tensor
    """float32 (M,)."""

    def outputs(self, tokens: Sequence[Tensor]) -> Tensor:
        """Return outputs (B, M) of normalized tokens, k times float32 (B, D)."""
        width = tokens[0].shape[1]
        total = self.bias.expand(len(tokens[0]), -1)
        for i, x in enumerate(tokens):
            total = torch.addmm(total, x, self.weight[:, i * width : (i + 1) * width].t())
        return total


def climb(score: Callable[[int], float], *, size: int, start: int) -> tuple[int, float]:
    """Return the position of a maximum and its score, by steps to the better neighbor.

    Scores of neighboring positions rise to one maximum and fall beyond it, or nearly so: a few
    tries from a good start find it. Of equal scores the higher position, which is regularized more,
    wins.

    Args:
        score: Score of a position; NaN where there is none.
        size: Number of positions.
        start: Position to start from.
    """
    known: dict[int, float] = {}

    def rank(position: int) -> tuple[float, int]:
        if position not in known:
            value = score(position)
            known[position] = value if value == value else -float("inf")
        return known[position], position

    best = start
    while True:
        neighbors = [p for p in (best + 1, best - 1) if 0 <= p < size]
        following = max([best, *neighbors], key=rank)
        if following == best:
            return best, known[best]
        best = following
