"""Learning curves of several probes side by side: training loss above, validation score below.

Shapes: G configurations, E epochs, R epochs that were evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layercache.reporting.plotting.figure import PALETTE, new_figure, styled
from layercache.reporting.plotting.text import wrap_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from layercache.probing.results.learning_curves import LearningCurves

PANEL_WIDTH, MIN_WIDTH = 2.1, 5.2
"""Width of a panel, and smallest width of the figure, in inches."""
PANEL_HEIGHT = 1.45
"""Height of a panel, in inches."""
OTHERS, SELECTED, FINAL = PALETTE[5], PALETTE[0], PALETTE[1]
"""Colours of the other configurations, of the selected one, and of the final fit."""
MAX_LOSS = 3.0
"""Upper end of the loss axis, relative to the largest loss of the selected configuration."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CurvePanel:
    """Curves of one probe."""

    title: str
    """Title of the panel."""
    curves: LearningCurves
    """Its curves."""
    selected: int
    """Position of the selected configuration along G."""


@styled
def learning_curves(
    panels: Sequence[CurvePanel], *, title: str, score: str, factor: float = 1.0
) -> Figure:
    """Draw the curves of all searched configurations, with the selected one and the final fit.

    Args:
        panels: The probes, at least one.
        title: Title of the figure.
        score: Name and unit of the metric on the validation samples.
        factor: Factor from the score to its unit.

    Raises:
        MissingExtraError: Without matplotlib.
    """
    figure = new_figure(
        max(MIN_WIDTH, 0.6 + (PANEL_WIDTH + 0.1) * len(panels)), 2 * PANEL_HEIGHT + 1.3, title=title
    )
    above, below = figure.subplots(2, len(panels), sharex="col", sharey="row", squeeze=False)
    for column, panel in enumerate(panels):
        heading = wrap_text(panel.title, inches=PANEL_WIDTH, points=9)
        above[column].set_title(heading, fontsize=9, pad=6)
        _draw_losses(above[column], panel)
        _draw_scores(below[column], panel, factor=factor)
        below[column].set_xlabel("epoch")
    largest = max(_largest(panel) for panel in panels)
    above[0].set_yscale("log")
    above[0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    above[0].yaxis.set_minor_formatter(lambda value, _: "")
    above[0].set_ylim(top=MAX_LOSS * largest)
    above[0].set_ylabel("training loss")
    below[0].set_ylabel(wrap_text(f"validation {score}", inches=PANEL_HEIGHT, points=9.5))
    for axes in (*above, *below):
        axes.grid(axis="y")
        axes.set_axisbelow(True)
    handles, labels = above[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=len(labels), fontsize=8.5)
    return figure


def _draw_losses(axes: Axes, panel: CurvePanel) -> None:
    curves = panel.curves
    for number, losses in enumerate(curves.train_loss):
        if number != panel.selected:
            label = "other configurations" if number in (0, int(panel.selected == 0)) else None
            _line(axes, losses, color=OTHERS, linewidth=0.8, alpha=0.45, label=label)
    selected = curves.train_loss[panel.selected]
    _line(axes, selected, color=SELECTED, linewidth=1.8, label="selected, in the search")
    _line(
        axes,
        curves.final_loss,
        color=FINAL,
        linewidth=1.6,
        linestyle=(0, (4, 2)),
        label="final fit on all training images",
    )


def _line(axes: Axes, losses: NDArray[np.float32], **style: Any) -> None:
    axes.plot(np.arange(1, len(losses) + 1), losses, **style)


def _draw_scores(axes: Axes, panel: CurvePanel, *, factor: float) -> None:
    curves = panel.curves
    for number, scores in enumerate(factor * curves.val_score):
        seen = np.isfinite(scores)
        x, y = curves.val_epochs[seen], scores[seen]
        if number == panel.selected:
            axes.plot(x, y, "o-", color=SELECTED, linewidth=1.8, markersize=4, zorder=3)
        else:
            axes.plot(x, y, ".-", color=OTHERS, linewidth=0.8, markersize=3, alpha=0.45)


def _largest(panel: CurvePanel) -> float:
    """Return the largest finite loss of the selected configuration and the final fit."""
    losses = np.concatenate(
        [panel.curves.train_loss[panel.selected], panel.curves.final_loss, [1e-6]]
    )
    return float(losses[np.isfinite(losses)].max())
