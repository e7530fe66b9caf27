"""Attention weights of a trained head, arranged by layer and token kind.

Shapes: H attention heads, S tokens of the head's input, L layers, T token kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layercache.errors import OptionError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionMap:
    """Mean attention over test images, by head, layer and token kind; NaN where the head has no such token."""

    layers: tuple[int, ...]
    """Layer numbers, ascending."""
    tokens: tuple[str, ...]
    """Token kinds; all cells of a grid, or all patches, are one kind whose weights are added."""
    mean_hlt: Floats
    """(H, L, T): mean weight; sums to 1 for each head."""
    std_hlt: Floats
    """(H, L, T): standard deviation over images; NaN for a kind whose weights were added."""

    @property
    def mean_lt(self) -> Floats:
        """(L, T): mean over heads and images; sums to 1."""
        return np.asarray(self.mean_hlt.mean(axis=0))

    @property
    def deviation_lt(self) -> Floats:
        """(L, T): standard deviation over all pairs of a head and an image.

        Variance over both = mean over heads of the variance over images + variance over heads of the mean over images.
        """
        return np.asarray(np.sqrt((self.std_hlt**2).mean(axis=0) + self.mean_hlt.var(axis=0)))


def arrange(
    mean_hs: NDArray[Any], std_hs: NDArray[Any], *, pairs: Sequence[tuple[int, str]]
) -> AttentionMap:
    """From columns of (layer, token) pairs to layers x token kinds. Raises OptionError if the number of columns is not that of pairs."""
    mean, std = np.asarray(mean_hs, dtype=np.float64), np.asarray(std_hs, dtype=np.float64)
    if mean.ndim != 2 or mean.shape != std.shape or mean.shape[1] != len(pairs):
        raise OptionError(
            f"attention: expected two (heads, {len(pairs)}) arrays, one column per pair, got {mean.shape} and {std.shape}"
        )
    layers = tuple(sorted({layer for layer, _ in pairs}))
    kinds = tuple(dict.fromkeys(token_kind(token) for _, token in pairs))
    shape = (len(mean), len(layers), len(kinds))
    out_mean, out_std = np.full(shape, np.nan), np.full(shape, np.nan)
    for column, (layer, token) in enumerate(pairs):
        at = (slice(None), layers.index(layer), kinds.index(token_kind(token)))
        first = np.isnan(out_mean[at]).all()
        out_mean[at] = mean[:, column] if first else out_mean[at] + mean[:, column]
        # the deviation of a sum is not known from the deviations of its parts
        out_std[at] = std[:, column] if first and token == token_kind(token) else np.nan
    return AttentionMap(layers=layers, tokens=kinds, mean_hlt=out_mean, std_hlt=out_std)


def token_kind(token: str) -> str:
    """The kind of a stored token: "grid:4/7" is of kind "grid:4", "patch/12" of kind "patch"."""
    return token.split("/")[0]


def average(maps: Sequence[AttentionMap]) -> AttentionMap:
    """Of several seeds of one probe: means and variances averaged head by head. Raises OptionError where they do not see the same tokens."""
    first = maps[0]
    if any(
        (m.layers, m.tokens, m.mean_hlt.shape) != (first.layers, first.tokens, first.mean_hlt.shape)
        for m in maps
    ):
        raise OptionError(
            "attention: only probes of the same tokens and number of heads can be averaged"
        )
    mean = np.mean([m.mean_hlt for m in maps], axis=0)
    return AttentionMap(
        layers=first.layers,
        tokens=first.tokens,
        mean_hlt=mean,
        std_hlt=np.sqrt(np.mean([m.std_hlt**2 for m in maps], axis=0)),
    )
