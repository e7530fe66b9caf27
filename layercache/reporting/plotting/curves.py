"""Points and lines: gains beside the published ones, a probe on every layer, curves over shots, similarity against gain.

Accuracies and gains come in percent and percentage points. Shapes: R rows, C panels, X positions on the axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layercache.errors import OptionError
from layercache.reporting.plotting.figure import INK, PALETTE, new_figure, require, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def dot_panels(
    values: ArrayLike,
    *,
    rows: Sequence[str],
    panels: Sequence[str],
    unit: str,
    title: str,
    paper: ArrayLike | None = None,
    spread: ArrayLike | None = None,
    zero: bool = True,
) -> Figure:
    """One panel beside the other, one dot per row: ours filled with its number, the published one hollow.

    Parameters
    ----------
    values, paper
        (R, C): ours, and the published figures; NaN where there is none.
    spread
        (2, R, C): how far a whisker reaches below and above ours; NaN where there is none.
    zero
        Draw a stem from 0, for gains; without it the axis starts where the data do, for accuracies.
    """
    v = _like(values, (len(rows), len(panels)))
    p = np.full_like(v, np.nan) if paper is None else _like(paper, v.shape)
    s = np.full((2, *v.shape), np.nan) if spread is None else _like(spread, (2, *v.shape))
    label = 0.082 * max(len(r) for r in rows)
    figure = new_figure(
        max(5.2, label + 0.5 + 2.05 * len(panels)),
        1.5 + 0.32 * len(rows) + 0.16 * max(n.count("\n") for n in panels),
    )
    columns = figure.subplots(1, len(panels), sharey=True, sharex=zero, squeeze=False)[0]
    low, high = _limits(
        np.concatenate([v - np.nan_to_num(s[0]), v + np.nan_to_num(s[1]), p]), zero=zero
    )
    y = np.arange(len(rows))
    for column, axes in enumerate(columns):
        if zero:
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
            xerr=_bars(s[:, :, column]),
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
            number = f"{v[row, column]:+.1f}" if zero else f"{v[row, column]:.1f}"
            axes.annotate(
                number,
                (1, row),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="center",
                fontsize=8,
            )
        axes.set_xlim(low, high)
        axes.set_title(panels[column], fontsize=9, fontweight="normal", pad=6)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(unit)
    columns[0].set_yticks(y, rows)
    columns[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.suptitle(title, x=0.012, ha="left", fontsize=11, fontweight="bold")
    if np.isfinite(p).any():
        handles, labels = columns[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", ncols=2, fontsize=8.5)
    return figure


@styled
def lines(
    x: Sequence[float],
    *,
    series: Mapping[str, ArrayLike],
    xlabel: str,
    title: str,
    ylabel: str = "balanced accuracy, %",
    spread: Mapping[str, ArrayLike] | None = None,
    levels: Mapping[str, float] | None = None,
    ratio: bool = False,
) -> Figure:
    """Curves over the same X positions, each named at its end, and levels (one number each) as dashed lines across.

    `spread` gives a band around a curve of that name; `ratio` spaces positions by ratio (shots) and not by difference (layers).
    """
    figure = new_figure(6.6, 3.5)
    axes = figure.add_subplot()
    ends: list[tuple[float, str, str]] = []
    for colour, (name, given) in zip(_colours(), series.items(), strict=False):
        y = _like(given, (len(x),))
        axes.plot(x, y, "o-", color=colour)
        if spread is not None and name in spread:
            half = np.nan_to_num(_like(spread[name], (len(x),)))
            axes.fill_between(x, y - half, y + half, color=colour, alpha=0.18, linewidth=0)
        there = np.flatnonzero(np.isfinite(y))
        if len(there):
            ends.append((float(y[there[-1]]), name, colour))
    for colour, (name, level) in zip(
        (PALETTE[3], PALETTE[5], *PALETTE[6:]), (levels or {}).items(), strict=False
    ):
        axes.axhline(level, color=colour, linestyle=(0, (5, 2.5)), linewidth=1.5)
        ends.append((level, name, colour))
    if ratio:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(list(x), [f"{p:g}" for p in x])
    _name_ends(axes, ends)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    axes.grid(axis="y")
    return figure


@styled
def scatter(
    groups: Mapping[str, tuple[ArrayLike, ArrayLike, Sequence[str]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    zero: bool = True,
) -> Figure:
    """Points with a short name each; `groups` gives name -> (x, y, names), one colour a group."""
    figure = new_figure(6.0, 3.9)
    axes = figure.add_subplot()
    if zero:
        axes.axhline(0, color=INK, linewidth=0.9)
    for colour, (name, (x, y, names)) in zip(_colours(), groups.items(), strict=False):
        xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        axes.plot(xs, ys, "o", color=colour, label=name, markersize=5.5)
        for px, py, text in zip(xs, ys, names, strict=True):
            axes.annotate(text, (px, py), (4, 3), textcoords="offset points", fontsize=7)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    axes.grid()
    axes.set_axisbelow(True)
    axes.legend(fontsize=8.5)
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
    """Two counts per row, joined: hollow before, filled after."""
    a, b = _like(before, (len(labels),)), _like(after, (len(labels),))
    figure = new_figure(6.6, 1.3 + 0.3 * len(labels))
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
    axes.set_yticks(y, list(labels))
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(left=min(0.0, -0.02 * float(max(a.max(), b.max()))))
    axes.xaxis.set_major_locator(require("matplotlib.ticker").MaxNLocator(integer=True))
    axes.set_xlabel(xlabel)
    axes.set_title(title)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside lower right", ncols=2, fontsize=8.5)
    return figure


def _name_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right edge beside their curves, pushed apart so that none covers another."""
    if not ends:
        return
    axes.margins(x=0.03, y=0.08)
    low, high = axes.get_ylim()
    gap = (high - low) * 0.068
    at = -np.inf
    placed = []
    for value, name, colour in sorted(ends):
        at = max(value, at + gap)
        placed.append((at, name, colour))
    overflow = max(0.0, at - high)
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


def _like(values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise OptionError(
            f"figure: expected values of shape {shape} from the names given, got {array.shape}"
        )
    return array


def _bars(half: NDArray[np.float64]) -> Any:
    return None if not np.isfinite(half).any() else np.nan_to_num(half)


def _limits(values: NDArray[np.float64], *, zero: bool) -> tuple[float, float]:
    there = values[np.isfinite(values)]
    low, high = (float(there.min()), float(there.max())) if len(there) else (0.0, 1.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = max((high - low) * 0.16, 0.4)
    # on the right there is room for a column of numbers
    return low - room, high + 0.34 * (high + room - low) + room
