"""Maps: attention over layer x token kind, similarity between layers, confusion between classes.

Shapes: L layers, T token kinds, P pairs (layer, token kind), K data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layercache.errors import OptionError
from layercache.reporting.plotting.figure import SEQUENTIAL, new_figure, save, styled

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
    d = (
        None
        if deviation is None
        else _matrix(deviation, rows=layers, columns=tokens, what="deviation")
    )
    n_cols, n_rows = len(layers), len(tokens)
    cell = 0.62 if n_cols <= NUMBERED else 0.34
    figure = new_figure(
        max(4.6, cell * n_cols + 1.9, 0.075 * len(subtitle) + 0.9),
        max(1.9, min(0.56, max(0.2, 3 / n_rows)) * n_rows + 1.35),
    )
    axes = figure.add_subplot()
    image = _map(
        axes,
        100 * w.T,
        columns=[str(layer) for layer in layers],
        rows=[token_label(t) for t in tokens],
        low=0.0,
    )
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


def _matrix(
    values: ArrayLike, *, rows: Sequence[Any], columns: Sequence[Any], what: str
) -> NDArray[np.float64]:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape != (len(rows), len(columns)):
        raise OptionError(
            f"{what}: expected shape ({len(rows)}, {len(columns)}) from the names given, got {matrix.shape}; pass one row per name"
        )
    return matrix


def _title(axes: Axes, title: str, subtitle: str) -> None:
    """Bold title at the left, and below it a line in plain weight."""
    axes.set_title(title, pad=24 if subtitle else 9)
    if subtitle:
        line = axes.annotate(
            subtitle,
            (0, 1),
            (0, 8),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="left",
            va="bottom",
            fontsize=9,
        )
        # the title above keeps the room free; a long line must not squeeze the map
        line.set_in_layout(False)


def _map(
    axes: Axes,
    values: NDArray[np.float64],
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """A map of cells; absent (NaN) cells are left empty."""
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    edges_x, edges_y = np.arange(len(columns) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5
    top = float(np.nanmax(values)) if high is None else high
    # a mesh, not an image: cells stay vectors in SVG; edges in the cells' own colours close the seams between them
    image = axes.pcolormesh(
        edges_x,
        edges_y,
        np.ma.masked_invalid(values),
        cmap=SEQUENTIAL,
        vmin=low,
        vmax=top,
        edgecolors="face",
        linewidth=0.5,
    )
    axes.invert_yaxis()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def _numbers(
    axes: Axes,
    image: Any,
    values: NDArray[np.float64],
    spread: NDArray[np.float64] | None = None,
    *,
    digits: int = 1,
) -> None:
    """Each cell's number in black or white, whichever stands out on the cell's colour; the spread smaller, below."""
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            continue
        colour = "#ffffff" if luminance(image.cmap(image.norm(value))[:3]) < 0.36 else "#111111"
        shift = 0.0 if spread is None else -0.14
        axes.text(
            column,
            row + shift,
            f"{value:.{digits}f}",
            ha="center",
            va="center",
            color=colour,
            fontsize=8.5,
        )
        if spread is not None:
            axes.text(
                column,
                row + 0.24,
                f"±{spread[row, column]:.{digits}f}",
                ha="center",
                va="center",
                color=colour,
                fontsize=6.5,
            )


def luminance(rgb: Sequence[float]) -> float:
    """Relative luminance of an sRGB colour with parts in 0..1 (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _mark(bar: Any, value: float, word: str) -> None:
    """A labelled line in the colour bar at `value`."""
    bar.ax.axhline(value, color="#ffffff", linewidth=1.2)
    bar.ax.annotate(
        word,
        (0, value),
        (-3, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=7,
    )


@styled
def attention_overview(
    weights: ArrayLike,
    *,
    datasets: Sequence[str],
    layers: Sequence[int],
    tokens: Sequence[str],
    title: str = "Attention by data set",
) -> Figure:
    """Data set x (layer x token kind), side by side by token kind as in the paper: `weights` (K, L, T), every data set's sum 1, NaN where absent."""
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != (len(datasets), len(layers), len(tokens)):
        raise OptionError(
            f"weights: expected shape ({len(datasets)}, {len(layers)}, {len(tokens)}) from the names given, got {w.shape}"
        )
    numbered = len(layers) * len(tokens) <= 2 * NUMBERED
    label = 0.085 * max(len(d) for d in datasets)
    figure = new_figure(
        max(5.2, label + 1.3 + (0.36 if numbered else 0.24) * len(layers) * len(tokens)),
        1.35 + 0.36 * len(datasets),
    )
    columns = figure.subplots(1, len(tokens), sharey=True, squeeze=False)[0]
    top = 100 * float(np.nanmax(w))
    for column, axes in enumerate(columns):
        image = _map(
            axes,
            100 * w[:, :, column],
            columns=[str(layer) for layer in layers],
            rows=datasets,
            low=0.0,
            high=top,
        )
        axes.set_title(token_label(tokens[column]), fontsize=9.5, pad=5)
        axes.set_xlabel("layer")
        if numbered:
            _numbers(axes, image, 100 * w[:, :, column], digits=0)
    # panels share the y axis: it was turned once per panel
    columns[0].set_ylim(len(datasets) - 0.5, -0.5)
    figure.suptitle(title, x=0.012, ha="left", fontsize=11, fontweight="bold")
    bar = figure.colorbar(
        image, ax=list(columns), fraction=0.05, pad=0.015, aspect=max(6, 4 * len(datasets))
    )
    bar.outline.set_visible(False)
    bar.set_label("attention, %")
    return figure


@styled
def similarity_map(
    cka: ArrayLike, *, pairs: Sequence[tuple[int, str]], title: str, subtitle: str = ""
) -> Figure:
    """CKA (P, P) between all layers, grouped by token kind, layers ascending within."""
    matrix = _matrix(cka, rows=pairs, columns=pairs, what="cka")
    tokens = list(dict.fromkeys(token for _, token in pairs))
    order = sorted(range(len(pairs)), key=lambda i: (tokens.index(pairs[i][1]), pairs[i][0]))
    matrix = matrix[np.ix_(order, order)]
    names = [f"{token_label(pairs[i][1])} {pairs[i][0]}" for i in order]
    size = max(3.9, 0.2 * len(pairs) + 1.3)
    figure = new_figure(max(size + 0.9, 0.075 * len(subtitle) + 1.2), size)
    axes = figure.add_subplot()
    image = _map(axes, matrix, columns=names, rows=names, low=0.0, high=1.0)
    axes.tick_params(labelsize=7)
    axes.tick_params(axis="x", labelrotation=90)
    for token in tokens[1:]:
        start = next(position for position, i in enumerate(order) if pairs[i][1] == token) - 0.5
        axes.axhline(start, color="#ffffff", linewidth=1.6)
        axes.axvline(start, color="#ffffff", linewidth=1.6)
    axes.set_aspect("equal")
    _title(axes, title, subtitle)
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("linear CKA")
    return figure
