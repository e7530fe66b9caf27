"""Predicted against true values of a regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from layercache.errors import OptionError
from layercache.reporting.plotting.figure import INK, PALETTE, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENSE = 2000
"""Number of points from which they are smaller and fainter."""


@styled
def predicted_against_true(
    panels: Mapping[str, ArrayLike], *, true: ArrayLike, column: str, title: str
) -> Figure:
    """Draw a panel for each head, a point per image, and the diagonal of exact predictions.

    Args:
        panels: Heading -> predicted values, (N,).
        true: True values, (N,).
        column: Name of the values, for the axes.
        title: Title of the figure.

    Raises:
        MissingExtraError: Without matplotlib.
        OptionError: If the numbers of values differ.
    """
    x = np.asarray(true, dtype=np.float64)
    values = {name: np.asarray(y, dtype=np.float64) for name, y in panels.items()}
    for name, y in values.items():
        if y.shape != x.shape:
            raise OptionError(f"figure: expected {x.shape} values of {name}, got {y.shape}")
    figure = new_figure(0.6 + 3.0 * len(panels), 3.6, title=title)
    columns = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    ends = np.array([x.min(), x.max()])
    dense = len(x) > DENSE
    for axes, (name, y) in zip(columns, values.items(), strict=True):
        axes.plot(ends, ends, color=INK, linewidth=0.9)
        axes.plot(
            x,
            y,
            "o",
            color=PALETTE[0],
            markersize=2.5 if dense else 4,
            alpha=0.25 if dense else 0.5,
            markeredgewidth=0,
            rasterized=dense,
        )
        axes.set_title(name, fontsize=9, pad=6)
        axes.set_xlabel(f"true {column}")
        axes.grid()
        axes.set_axisbelow(True)
    columns[0].set_ylabel(f"predicted {column}")
    return figure
