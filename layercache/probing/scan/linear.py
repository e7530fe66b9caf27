"""Ridge and lda of one subset: the setting is searched on validation rows, then fitted again.

Shapes: V validation rows, k tokens of a subset, D width, P = k D features, M targets, B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layercache.probing.baselines.models import ABSENT_CLASS_LOGIT
from layercache.probing.closed_form.cholesky import lda_coefficients, ridge_coefficients
from layercache.probing.scan.fused import Fused

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


def fit_linear(
    head: str, fused: Fused, setting: float, *, classifies: bool, absent: Tensor
) -> Linear | None:
    """Return a head, or None where the setting is below rounding errors.

    Args:
        head: ridge or lda.
        fused: Moments of the training rows.
        setting: Its penalty or shrinkage.
        classifies: The targets are classes: ridge then has targets of 1 and -1, as
            `RidgeClassifier`.
        absent: Classes without training rows, bool (M,).
    """
    if head == "ridge":
        coefficients = ridge_coefficients(fused.moments, setting)
    else:
        coefficients = lda_coefficients(fused.moments, setting, features=fused.features)
    if coefficients is None:
        return None
    weight, bias = fused.expand(*coefficients)
    if head == "ridge" and classifies:
        weight, bias = 2 * weight, 2 * bias - 1
    bias = bias.masked_fill(absent, ABSENT_CLASS_LOGIT)
    return Linear(weight.float(), bias.float())


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
