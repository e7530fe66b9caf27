"""Attention heatmaps: attention of a head by layer and token kind, and by dataset.

Shapes: K datasets, L layers, T token kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from layercache.errors import OptionError
from layercache.reporting.plotting.figure import new_figure, styled
from layercache.reporting.plotting.heatmap_cells import (
    as_matrix,
    draw_cells,
    draw_colorbar,
    draw_numbers,
    token_label,
)
from layercache.reporting.plotting.text import text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_NUMBERED = 14
"""Number of columns up to which the cells show their numbers."""


@styled
def attention_heatmap(
    weights: ArrayLike,
    *,
    layers: Sequence[int],
    tokens: Sequence[str],
    deviation: ArrayLike | None = None,
    title: str = "Attention by layer and token",
    subtitle: str = "",
) -> Figure:
    """Draw attention over depth, in percent: one column per layer, one row per token kind.

    Args:
        weights: Mean attention weight, (L, T); NaN for a token the head does not see; the rest sums
            to 1.
        layers: Layer numbers.
        tokens: Token kinds.
        deviation: Standard deviation over images (or heads), (L, T), written below the mean.
        title: Title of the figure.
        subtitle: Line below the title.

    Raises:
        MissingExtraError: Without matplotlib.
        OptionError: If a shape does not match the labels.
    """
    mean_tl = 100 * as_matrix(weights, rows=layers, columns=tokens, name="weights").T
    std_tl = None
    if deviation is not None:
        std_tl = 100 * as_matrix(deviation, rows=layers, columns=tokens, name="deviation").T
    n_rows, n_columns = mean_tl.shape
    cell_width = 0.62 if n_columns <= MAX_NUMBERED else 0.34
    cell_height = min(0.56, max(0.2, 3 / n_rows))
    figure = new_figure(
        max(4.6, cell_width * n_columns + 1.9),
        max(1.4, cell_height * n_rows + 0.85),
        title=title,
        subtitle=subtitle,
    )
    axes = figure.add_subplot()
    mesh = draw_cells(
        axes,
        mean_tl,
        columns=[str(layer) for layer in layers],
        rows=[token_label(token) for token in tokens],
        vmin=0.0,
    )
    axes.set_xlabel("layer")
    bar = draw_colorbar(
        figure, mesh, axes, "attention, %", fraction=0.05, pad=0.02, aspect=max(6, 5 * n_rows)
    )
    _mark_level(bar, 100 / np.isfinite(mean_tl).sum(), "uniform")
    if n_columns <= MAX_NUMBERED and n_rows <= MAX_NUMBERED:
        draw_numbers(axes, mesh, mean_tl, std_tl)
    return figure


@styled
def attention_overview(
    weights: ArrayLike,
    *,
    rows: Sequence[str],
    layers: Sequence[int],
    tokens: Sequence[str],
    title: str = "Attention by dataset",
) -> Figure:
    """Draw attention by row (dataset or head) and layer, one panel per token kind, as in the paper.

    Args:
        weights: (K, L, T), each row with sum 1; NaN for a token the head does not see.
        rows: Labels of the rows.
        layers: Layer numbers.
        tokens: Token kinds.
        title: Title of the figure.

    Raises:
        MissingExtraError: Without matplotlib.
        OptionError: If the shape does not match the labels.
    """
    weights_klt = np.asarray(weights, dtype=np.float64)
    if weights_klt.shape != (len(rows), len(layers), len(tokens)):
        raise OptionError(
            f"weights: expected shape ({len(rows)}, {len(layers)}, {len(tokens)}) from the labels, "
            f"got {weights_klt.shape}"
        )
    n_columns = len(layers) * len(tokens)
    numbered = n_columns <= 2 * MAX_NUMBERED
    label_width = max(text_width(row, points=9.5) for row in rows)
    figure = new_figure(
        max(5.2, label_width + 1.3 + (0.36 if numbered else 0.24) * n_columns),
        1.0 + 0.36 * len(rows),
        title=title,
    )
    panels = figure.subplots(1, len(tokens), sharey=True, squeeze=False)[0]
    for token, axes, weights_kl in zip(tokens, panels, weights_klt.transpose(2, 0, 1), strict=True):
        mesh = draw_cells(
            axes,
            100 * weights_kl,
            columns=[str(layer) for layer in layers],
            rows=rows,
            vmin=0.0,
            vmax=100 * float(np.nanmax(weights_klt)),
        )
        axes.set_title(token_label(token), fontsize=9.5, pad=5)
        axes.set_xlabel("layer")
        if numbered:
            draw_numbers(axes, mesh, 100 * weights_kl, decimals=0)
    # the panels share the y axis, which was inverted once per panel
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    draw_colorbar(
        figure,
        mesh,
        list(panels),
        "attention, %",
        fraction=0.05,
        pad=0.015,
        aspect=max(6, 4 * len(rows)),
    )
    return figure


def _mark_level(bar: Any, value: float, label: str) -> None:
    """Draw a labelled line in the colour bar."""
    bar.ax.axhline(value, color="#ffffff", linewidth=1.2)
    bar.ax.annotate(
        label,
        (0, value),
        (-3, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=7,
    )
