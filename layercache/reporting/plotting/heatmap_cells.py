"""Parts shared by the heatmaps: coloured cells with numbers, titles and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layercache.errors import OptionError
from layercache.reporting.plotting.figure import SEQUENTIAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DARK_LUMINANCE = 0.36
"""Luminance of a cell below which its number is white."""


def token_label(token: str) -> str:
    """Return the label of a token kind in a figure."""
    return {"cls": "CLS", "ap": "AP"}.get(token, token)


def as_matrix(
    values: ArrayLike, *, rows: Sequence[Any], columns: Sequence[Any], name: str
) -> NDArray[np.float64]:
    """Return values as a float64 matrix.

    Raises:
        OptionError: If the shape does not match the labels.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape != (len(rows), len(columns)):
        raise OptionError(
            f"{name}: expected shape ({len(rows)}, {len(columns)}) from the labels, "
            f"got {matrix.shape}: pass one row per label"
        )
    return matrix


def draw_cells(
    axes: Axes,
    values: NDArray[np.float64],
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    vmin: float | None = None,
    vmax: float | None = None,
) -> Any:
    """Draw a matrix as coloured cells, leaving NaN empty, and return the mesh."""
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    # a mesh, not an image: cells stay vectors in SVG; edges in the cells' own colours close the
    # seams between them
    mesh = axes.pcolormesh(
        np.arange(len(columns) + 1) - 0.5,
        np.arange(len(rows) + 1) - 0.5,
        np.ma.masked_invalid(values),
        cmap=SEQUENTIAL,
        vmin=vmin,
        vmax=float(np.nanmax(values)) if vmax is None else vmax,
        edgecolors="face",
        linewidth=0.5,
    )
    axes.invert_yaxis()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return mesh


def draw_numbers(
    axes: Axes,
    mesh: Any,
    values: NDArray[np.float64],
    deviation: NDArray[np.float64] | None = None,
    *,
    decimals: int = 1,
) -> None:
    """Write each cell's number in black or white, and its deviation in a smaller font below."""
    style: dict[str, Any] = {"ha": "center", "va": "center"}
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            continue
        dark = luminance(mesh.cmap(mesh.norm(value))[:3]) < DARK_LUMINANCE
        style["color"] = "#ffffff" if dark else "#111111"
        y = row if deviation is None else row - 0.14
        axes.text(column, y, f"{value:.{decimals}f}", fontsize=8.5, **style)
        if deviation is not None:
            text = f"±{deviation[row, column]:.{decimals}f}"
            axes.text(column, row + 0.24, text, fontsize=6.5, **style)


def draw_colorbar(figure: Figure, mesh: Any, axes: Any, label: str, **layout: Any) -> Any:
    """Add a colour bar without a frame and return it."""
    bar = figure.colorbar(mesh, ax=axes, **layout)
    bar.outline.set_visible(False)
    bar.set_label(label)
    return bar


def luminance(rgb: Sequence[float]) -> float:
    """Return the relative luminance of an sRGB colour with channels in 0..1 (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
