"""Plots of points and lines: gains, accuracies by layer or number of shots, scatter plots.

Accuracies are in percent, gains in percentage points. Shapes: R rows, C panels, X positions on the
axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layercache.errors import OptionError
from layercache.reporting.dependencies import require
from layercache.reporting.formatting import format_points
from layercache.reporting.plotting.figure import INK, PALETTE, new_figure, styled
from layercache.reporting.plotting.text import text_width, wrap_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_WIDTH = 1.8
"""Width of a panel of gains, in inches."""
MAX_LABEL_WIDTH = 3.0
"""Width of the label at the end of a curve, in inches; longer ones are broken into lines."""


@styled
def gain_panels(
    gains: ArrayLike,
    *,
    rows: Sequence[str],
    panels: Sequence[str],
    title: str,
    published: ArrayLike | None = None,
    whiskers: ArrayLike | None = None,
) -> Figure:
    """Draw gains in panels side by side, one dot with a stem from 0 per row.

    Args:
        gains: (R, C), NaN for a missing value.
        rows: Labels of the rows.
        panels: Titles of the panels.
        title: Title of the figure.
        published: Published gains, drawn hollow, (R, C), NaN for a missing value.
        whiskers: Length of the whisker below and above each gain, (2, R, C), NaN for none.

    Raises:
        MissingExtraError: Without matplotlib.
        OptionError: If a shape does not match the labels.
    """
    v = _as_shape(gains, (len(rows), len(panels)))
    p = np.full_like(v, np.nan) if published is None else _as_shape(published, v.shape)
    w = np.zeros((2, *v.shape)) if whiskers is None else _as_shape(whiskers, (2, *v.shape))
    w = np.nan_to_num(w)
    label_width = max(text_width(row, points=9.5) for row in rows)
    headings = [
        "\n".join(wrap_text(line, inches=PANEL_WIDTH, points=9) for line in panel.split("\n"))
        for panel in panels
    ]
    figure = new_figure(
        max(5.2, label_width + 0.3 + (PANEL_WIDTH + 0.35) * len(panels)),
        1.15 + 0.32 * len(rows) + 0.16 * max(heading.count("\n") for heading in headings),
        title=title,
    )
    columns = figure.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
    low, high = _limits(np.concatenate([v - w[0], v + w[1], p]))
    y = np.arange(len(rows))
    for column, axes in enumerate(columns):
        axes.axvline(0, color=INK, linewidth=0.9)
        for row in y[np.isfinite(v[:, column])]:
            axes.plot(
                [0, v[row, column]],
                [row, row],
                color=PALETTE[0],
                linewidth=2.2,
                alpha=0.45,
                solid_capstyle="butt",
            )
        axes.errorbar(
            v[:, column],
            y,
            xerr=w[:, :, column] if w[:, :, column].any() else None,
            fmt="o",
            color=PALETTE[0],
            markersize=6,
            elinewidth=1.2,
            label="ours",
        )
        if np.isfinite(p).any():
            axes.plot(
                p[:, column],
                y,
                "D",
                color=PALETTE[1],
                markerfacecolor="none",
                markersize=6,
                markeredgewidth=1.4,
                label="paper",
            )
        for row in y[np.isfinite(v[:, column])]:
            # outside the axes, where no line of the grid crosses the number
            axes.annotate(
                format_points(v[row, column]),
                (1, row),
                (4, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set_xlim(low, high)
        axes.set_title(headings[column], fontsize=9, pad=6)
        axes.set_xlabel("gain, points")
        _style_rows(axes, rows)
    if np.isfinite(p).any():
        _draw_legend(figure, columns[0])
    return figure


@styled
def lines(
    x: Sequence[float],
    *,
    series: Mapping[str, ArrayLike],
    xlabel: str,
    title: str,
    ylabel: str = "balanced accuracy, %",
    deviation: Mapping[str, ArrayLike] | None = None,
    levels: Mapping[str, float] | None = None,
    log_x: bool = False,
) -> Figure:
    """Draw curves over the same X positions, each labelled at its end.

    Args:
        x: Positions, (X,).
        series: Label -> values, (X,), NaN for a missing value.
        xlabel: Label of the x axis.
        title: Title of the figure.
        ylabel: Label of the y axis.
        deviation: Label of a curve -> half height of a band around it, (X,).
        levels: Label -> value of a dashed horizontal line.
        log_x: Use a logarithmic x axis (shots) instead of a linear one (layers).

    Raises:
        MissingExtraError: Without matplotlib.
        OptionError: If a shape does not match `x`.
    """
    labels = {
        name: wrap_text(name, inches=MAX_LABEL_WIDTH, points=8.5, bold=True)
        for name in (*series, *(levels or {}))
    }
    label_width = max(
        text_width(line, points=8.5, bold=True)
        for label in labels.values()
        for line in label.split("\n")
    )
    figure = new_figure(max(6.6, 4.5 + label_width), 3.15, title=title)
    axes = figure.add_subplot()
    ends: list[tuple[float, str, str]] = []
    for colour, (name, values) in zip(_colours(), series.items(), strict=False):
        y = _as_shape(values, (len(x),))
        finite = np.isfinite(y)
        axes.plot(np.asarray(x)[finite], y[finite], "o-", color=colour)
        if deviation is not None and name in deviation:
            half = np.nan_to_num(_as_shape(deviation[name], (len(x),)))
            axes.fill_between(x, y - half, y + half, color=colour, alpha=0.18, linewidth=0)
        if finite.any():
            ends.append((float(y[finite][-1]), labels[name], colour))
    level_colours = (PALETTE[3], PALETTE[5], *PALETTE[6:])
    for colour, (name, level) in zip(level_colours, (levels or {}).items(), strict=False):
        axes.axhline(level, color=colour, linestyle=(0, (5, 2.5)), linewidth=1.5)
        ends.append((level, labels[name], colour))
    if log_x:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(list(x), [f"{p:g}" for p in x])
    _label_ends(axes, ends)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y")
    return figure


@styled
def scatter(
    series: Mapping[str, tuple[ArrayLike, ArrayLike, Sequence[str]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str,
) -> Figure:
    """Draw labelled points, one colour per series.

    Args:
        series: Name -> (x, y, labels of the points).
        xlabel: Label of the x axis.
        ylabel: Label of the y axis.
        title: Title of the figure.

    Raises:
        MissingExtraError: Without matplotlib.
    """
    figure = new_figure(6.0, 3.55, title=title)
    axes = figure.add_subplot()
    axes.axhline(0, color=INK, linewidth=0.9)
    all_x = np.concatenate([np.asarray(x, dtype=np.float64) for x, _, _ in series.values()])
    middle = (all_x.min() + all_x.max()) / 2
    for colour, (name, (x, y, labels)) in zip(_colours(), series.items(), strict=False):
        xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        axes.plot(xs, ys, "o", color=colour, label=name, markersize=5.5)
        for px, py, label in zip(xs, ys, labels, strict=True):
            right_half = px > middle
            axes.annotate(
                wrap_text(label, inches=2, points=7),
                (px, py),
                (-4 if right_half else 4, 3),
                textcoords="offset points",
                ha="right" if right_half else "left",
                fontsize=7,
            )
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid()
    axes.set_axisbelow(True)
    _draw_legend(figure, axes)
    return figure


@styled
def dumbbells(
    labels: Sequence[str],
    *,
    before: ArrayLike,
    after: ArrayLike,
    names: tuple[str, str],
    xlabel: str,
    title: str,
) -> Figure:
    """Draw two counts per row, joined by a line: hollow before, filled after.

    Args:
        labels: Labels of the R rows.
        before: Counts, (R,).
        after: Counts, (R,).
        names: What before and after are, for the legend.
        xlabel: Label of the x axis.
        title: Title of the figure.

    Raises:
        MissingExtraError: Without matplotlib.
        OptionError: If a shape does not match the labels.
    """
    a, b = _as_shape(before, (len(labels),)), _as_shape(after, (len(labels),))
    label_width = max(text_width(label, points=9.5) for label in labels)
    figure = new_figure(max(6.6, label_width + 3.6), 0.95 + 0.3 * len(labels), title=title)
    axes = figure.add_subplot()
    y = np.arange(len(labels))
    axes.hlines(y, np.minimum(a, b), np.maximum(a, b), color=PALETTE[5], linewidth=2, alpha=0.6)
    axes.plot(
        a,
        y,
        "o",
        color=PALETTE[5],
        markerfacecolor="none",
        markersize=7,
        markeredgewidth=1.4,
        label=names[0],
    )
    axes.plot(b, y, "o", color=PALETTE[0], markersize=6, label=names[1])
    _style_rows(axes, labels)
    axes.set_xlim(left=min(0.0, -0.02 * float(max(a.max(), b.max()))))
    axes.xaxis.set_major_locator(require("matplotlib.ticker").MaxNLocator(integer=True))
    axes.set_xlabel(xlabel)
    _draw_legend(figure, axes)
    return figure


def _draw_legend(figure: Figure, axes: Axes) -> None:
    """Draw the legend below the plot, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    column_width = 0.6 + max(text_width(label, points=8.5) for label in labels)
    n_columns = max(1, int(figure.get_figwidth() // column_width))
    figure.legend(
        handles,
        labels,
        loc="outside lower right",
        ncols=min(n_columns, len(labels)),
        fontsize=8.5,
    )


def _style_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Label the rows from top to bottom, with a vertical grid and no y axis."""
    axes.set_yticks(range(len(labels)), list(labels))
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Label curves at the right edge, pushed apart so that no label covers another."""
    if not ends:
        return
    axes.margins(x=0.03, y=0.08)
    low, high = axes.get_ylim()
    gap = (high - low) * 0.068
    height, above = -np.inf, 0.0
    placed = []
    for value, name, colour in sorted(ends):
        half = gap * (1 + name.count("\n")) / 2
        height = max(value, height + above + half)
        above = half
        placed.append((height, name, colour))
    overflow = max(0.0, height - high)
    for height, name, colour in placed:
        text = axes.annotate(
            name,
            (1.01, height - overflow),
            xycoords=("axes fraction", "data"),
            va="center",
            color=colour,
            fontsize=8.5,
        )
        text.set_fontweight("bold")


def _colours() -> list[str]:
    return [*PALETTE, *PALETTE]


def _as_shape(values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise OptionError(
            f"figure: expected values of shape {shape} from the labels, got {array.shape}"
        )
    return array


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        finite = np.array([1.0])
    low, high = min(float(finite.min()), 0.0), max(float(finite.max()), 0.0)
    margin = max((high - low) * 0.16, 0.4)
    return low - margin, high + margin
