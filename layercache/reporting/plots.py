"""Maps: attention over layer x token kind, similarity between layers, confusion between classes.

Shapes: L layers, T token kinds, P pairs (layer, token kind), K data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layercache.errors import OptionError
from layercache.reporting.figure import SEQUENTIAL, new_figure, save, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["attention_heatmap", "save"]

NUMBERED = 14
"""A map with at most this many columns carries its numbers in the cells."""


@styled
def attention_heatmap(
    weights: ArrayLike,
    *,
    layers: Sequence[int],
    tokens: Sequence[str],
    deviation: ArrayLike | None = None,
    title: str = "Where the head looks",
    subtitle: str = "",
) -> Figure:
    """Attention over depth: one column per layer, one row per token kind, in percent of all weight.

    Parameters
    ----------
    weights
        (L, T): mean attention weight of each layer and token kind; NaN where the head has no such token. What is there sums to 1.
    deviation
        (L, T): standard deviation over images (or heads), written under the mean.

    Raises OptionError if the shape does not fit the names.
    """
    w = _matrix(weights, rows=layers, columns=tokens, what="weights")
    d = None if deviation is None else _matrix(deviation, rows=layers, columns=tokens, what="deviation")
    n_cols, n_rows = len(layers), len(tokens)
    cell = 0.62 if n_cols <= NUMBERED else 0.34
    figure = new_figure(max(4.6, cell * n_cols + 1.9), max(1.9, min(0.56, max(0.2, 3 / n_rows)) * n_rows + 1.35))
    axes = figure.add_subplot()
    image = _map(axes, 100 * w.T, columns=[str(layer) for layer in layers], rows=[token_label(t) for t in tokens], low=0.0)
    axes.set_xlabel("layer")
    _title(axes, title, subtitle)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, aspect=max(6, 5 * n_rows))
    bar.outline.set_visible(False)
    bar.set_label("attention, %")
    even = 100 / np.isfinite(w).sum()
    _mark(bar, even, "even share")
    if n_cols <= NUMBERED and n_rows <= NUMBERED:
        _numbers(axes, image, 100 * w.T, None if d is None else 100 * d.T)
    return figure


def token_label(token: str) -> str:
    """How a stored token name is written in a figure."""
    return {"cls": "CLS", "ap": "AP"}.get(token, token)


def _matrix(values: ArrayLike, *, rows: Sequence[Any], columns: Sequence[Any], what: str) -> NDArray[np.float64]:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape != (len(rows), len(columns)):
        raise OptionError(f"{what}: expected shape ({len(rows)}, {len(columns)}) from the names given, got {matrix.shape}; pass one row per name")
    return matrix


def _title(axes: Axes, title: str, subtitle: str) -> None:
    """Bold title at the left, and below it a line in plain weight."""
    axes.set_title(title, pad=24 if subtitle else 9)
    if subtitle:
        axes.annotate(subtitle, (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points", ha="left", va="bottom", fontsize=9)


def _map(
    axes: Axes, values: NDArray[np.float64], *, columns: Sequence[str], rows: Sequence[str], low: float | None = None, high: float | None = None
) -> Any:
    """Cells with a hair of ground between them; absent (NaN) cells are left empty."""
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    edges_x, edges_y = np.arange(len(columns) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5
    top = float(np.nanmax(values)) if high is None else high
    # a mesh, not an image: cells stay vectors in SVG
    image = axes.pcolormesh(edges_x, edges_y, np.ma.masked_invalid(values), cmap=SEQUENTIAL, vmin=low, vmax=top, edgecolors="none", linewidth=0)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def _numbers(axes: Axes, image: Any, values: NDArray[np.float64], spread: NDArray[np.float64] | None = None, *, digits: int = 1) -> None:
    """Each cell's number in black or white, whichever stands out on the cell's colour; the spread smaller, below."""
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            continue
        colour = "#ffffff" if luminance(image.cmap(image.norm(value))[:3]) < 0.36 else "#111111"
        shift = 0.0 if spread is None else -0.14
        axes.text(column, row + shift, f"{value:.{digits}f}", ha="center", va="center", color=colour, fontsize=8.5)
        if spread is not None:
            axes.text(column, row + 0.24, f"±{spread[row, column]:.{digits}f}", ha="center", va="center", color=colour, fontsize=6.5)


def luminance(rgb: Sequence[float]) -> float:
    """Relative luminance of an sRGB colour with parts in 0..1 (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _mark(bar: Any, value: float, word: str) -> None:
    """A labelled line in the colour bar at `value`."""
    bar.ax.axhline(value, color="#ffffff", linewidth=1.2)
    bar.ax.annotate(word, (0, value), (-3, 0), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", va="center", fontsize=7)
