"""Similarity heatmap: CKA between all layers and token kinds.

Shapes: P pairs (layer, token kind).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from layercache.reporting.plotting.figure import new_figure, styled
from layercache.reporting.plotting.heatmap_cells import (
    as_matrix,
    draw_cells,
    draw_colorbar,
    token_label,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def similarity_heatmap(
    cka: ArrayLike, *, pairs: Sequence[tuple[int, str]], title: str, subtitle: str = ""
) -> Figure:
    """Draw CKA (P, P) between all pairs, grouped by token kind, then by layer.

    Raises:
        MissingExtraError: Without matplotlib.
        OptionError: If the shape does not match `pairs`.
    """
    matrix = as_matrix(cka, rows=pairs, columns=pairs, name="cka")
    tokens = list(dict.fromkeys(token for _, token in pairs))
    order = sorted(range(len(pairs)), key=lambda i: (tokens.index(pairs[i][1]), pairs[i][0]))
    labels = [f"{token_label(pairs[i][1])} {pairs[i][0]}" for i in order]
    size = max(3.4, 0.2 * len(pairs) + 0.8)
    figure = new_figure(size + 1.4, size, title=title, subtitle=subtitle)
    axes = figure.add_subplot()
    matrix = matrix[np.ix_(order, order)]
    mesh = draw_cells(axes, matrix, columns=labels, rows=labels, vmin=0.0, vmax=1.0)
    axes.tick_params(labelsize=7)
    axes.tick_params(axis="x", labelrotation=90)
    for token in tokens[1:]:
        start = next(position for position, i in enumerate(order) if pairs[i][1] == token) - 0.5
        axes.axhline(start, color="#ffffff", linewidth=1.6)
        axes.axvline(start, color="#ffffff", linewidth=1.6)
    axes.set_aspect("equal")
    draw_colorbar(figure, mesh, axes, "linear CKA", fraction=0.045, pad=0.02)
    return figure
