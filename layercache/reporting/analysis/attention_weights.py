"""Attention weights of a trained head, arranged by layer and token kind.

They are drawn by `layercache.reporting.plotting.attention_heatmap`.

Shapes: H attention heads, S input tokens of the head, L layers, T token kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layercache.cache.format.token_names import kind_word, kind_words
from layercache.errors import OptionError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionMap:
    """Mean attention over test images by head, layer and token kind; NaN for unseen tokens."""

    layers: tuple[int, ...]
    """Layer numbers, ascending."""
    tokens: tuple[str, ...]
    """Token kinds; all cells of a grid, or all patches, are one kind whose weights are added."""
    mean_hlt: Floats
    """Mean weight, (H, L, T); sums to 1 for each head."""
    std_hlt: Floats
    """Standard deviation over images, (H, L, T); NaN for a kind whose weights were added."""

    @property
    def mean_lt(self) -> Floats:
        """Mean over heads and images, (L, T); sums to 1."""
        return np.asarray(self.mean_hlt.mean(axis=0))

    @property
    def std_lt(self) -> Floats:
        """Standard deviation over all pairs of a head and an image, (L, T).

        Variance over both = mean over heads of the variance over images
        + variance over heads of the mean over images.
        """
        return np.asarray(np.sqrt((self.std_hlt**2).mean(axis=0) + self.mean_hlt.var(axis=0)))


def arrange_attention(
    mean_hs: NDArray[Any], std_hs: NDArray[Any], *, pairs: Sequence[tuple[int, str]]
) -> AttentionMap:
    """Arrange attention weights by layer and token kind.

    Args:
        mean_hs: Mean over images, (H, S).
        std_hs: Standard deviation over images, (H, S).
        pairs: (layer, token) of each of the S columns.

    Raises:
        OptionError: If the shapes do not match `pairs`.
    """
    mean, std = np.asarray(mean_hs, dtype=np.float64), np.asarray(std_hs, dtype=np.float64)
    if mean.ndim != 2 or mean.shape != std.shape or mean.shape[1] != len(pairs):
        raise OptionError(
            f"attention: expected two (heads, {len(pairs)}) arrays, one column per pair, "
            f"got {mean.shape} and {std.shape}"
        )
    layers = tuple(sorted({layer for layer, _ in pairs}))
    kinds = tuple(kind_words(token for _, token in pairs))
    shape = (len(mean), len(layers), len(kinds))
    mean_hlt, std_hlt = np.full(shape, np.nan), np.full(shape, np.nan)
    for column, (layer, token) in enumerate(pairs):
        index = (slice(None), layers.index(layer), kinds.index(kind_word(token)))
        first = np.isnan(mean_hlt[index]).all()
        mean_hlt[index] = mean[:, column] if first else mean_hlt[index] + mean[:, column]
        # the deviation of a sum does not follow from the deviations of its parts
        std_hlt[index] = std[:, column] if first and token == kind_word(token) else np.nan
    return AttentionMap(layers=layers, tokens=kinds, mean_hlt=mean_hlt, std_hlt=std_hlt)


def average_attention(maps: Sequence[AttentionMap]) -> AttentionMap:
    """Average means and variances, head by head, over several seeds of one probe.

    Raises:
        OptionError: If the maps have different layers, tokens or numbers of heads.
    """
    first = maps[0]
    if any(
        (m.layers, m.tokens, m.mean_hlt.shape) != (first.layers, first.tokens, first.mean_hlt.shape)
        for m in maps
    ):
        raise OptionError(
            "attention: only probes of the same tokens and number of heads can be averaged"
        )
    return AttentionMap(
        layers=first.layers,
        tokens=first.tokens,
        mean_hlt=np.mean([m.mean_hlt for m in maps], axis=0),
        std_hlt=np.sqrt(np.mean([m.std_hlt**2 for m in maps], axis=0)),
    )
