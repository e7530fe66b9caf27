"""Style and output of all plots: one palette, saved as PNG, as SVG, or as inline SVG for the page.

Each plot is a separate `matplotlib.figure.Figure`; pyplot is not used, so there is no global state
and no display is needed. Text, axes and grid have one colour, which the page replaces by the
reader's text colour; data colours are mid-tones that stand out on white and on near-black alike.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import wraps
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from layercache.reporting.dependencies import require
from layercache.reporting.plotting.text import (
    FONT,
    set_fallback_fonts,
    without_font_warnings,
    wrap_text,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1c2128"
"""Colour of text, axes and grid; becomes `currentColor` on the page."""
PALETTE = ("#2f81c7", "#dd7722", "#2b9a66", "#9a6bd1", "#c8516b", "#7d8590", "#a58a1f", "#1f9aa8")
"""Colours of series; their contrast is at least 3:1 on white and on near-black."""
SEQUENTIAL = "viridis"
"""Colour map of magnitudes: perceptually uniform, readable in grey and by the colour-blind."""
DPI = 160
"""Resolution of PNG files."""
MARGIN = 0.1
"""Space around a title, in inches."""
LINE_SPACING = 1.45
"""Height of a line of a title, in font sizes."""

_STYLE = {
    "font.family": [FONT],
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a name is a dollar sign
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "grid.color": INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
    "figure.constrained_layout.h_pad": 0.09,
    "figure.constrained_layout.w_pad": 0.09,
    "svg.fonttype": "none",
    "svg.hashsalt": "layercache",
}

_P = ParamSpec("_P")


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Decorate a drawing function to run in the project's style.

    The settings of matplotlib stay unchanged.

    Raises:
        MissingExtraError: When called without matplotlib.
    """

    @wraps(draw)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        matplotlib = require("matplotlib")
        with matplotlib.rc_context(_STYLE), without_font_warnings():
            figure = draw(*args, **kwargs)
            set_fallback_fonts(figure)
            # fix the layout: the engine drifts by a fraction of a pixel each time it runs
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            return figure

    return wrapper


def new_figure(width: float, height: float, *, title: str, subtitle: str = "") -> Figure:
    """Return a figure with its title and constrained layout for what is below the title.

    The title starts at the left edge and is broken into lines at the right one, so a long name is
    never cut off and never squeezes the plot.

    Args:
        width: Width in inches.
        height: Height in inches without the title.
        title: Bold title.
        subtitle: Smaller text below it.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    blocks = [
        (wrap_text(text, inches=width - 2 * MARGIN, points=size, bold=bold), size, bold)
        for text, size, bold in ((title, 11, True), (subtitle, 9, False))
        if text
    ]
    heights = [LINE_SPACING * size / 72 * (1 + text.count("\n")) for text, size, _ in blocks]
    total = height + MARGIN + sum(heights)
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, height / total))
    figure = Figure(figsize=(width, total), layout=layout)
    top = total - MARGIN
    for (text, size, bold), text_height in zip(blocks, heights, strict=True):
        figure.text(
            MARGIN / width,
            top / total,
            text,
            va="top",
            fontsize=size,
            fontweight="bold" if bold else "normal",
        )
        top -= text_height
    return figure


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure on white and return the paths; the same figure gives the same bytes.

    Args:
        figure: Figure to save.
        path: File with the suffix .png or .svg; without one of them both are written.
    """
    stem = Path(path)
    formats: tuple[str, ...] = ("png", "svg")
    if stem.suffix in (".png", ".svg"):
        stem, formats = stem.with_suffix(""), (stem.suffix[1:],)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in formats:
        file = stem.with_name(f"{stem.name}.{kind}")
        file.write_bytes(_render(figure, kind, transparent=False))
        paths.append(file)
    return paths


def to_page_svg(figure: Figure, *, name: str, label: str) -> str:
    """Return a figure as a transparent <svg> element for an HTML page, in the reader's text colour.

    Args:
        figure: Figure to convert.
        name: Prefix of all element ids.
        label: Text for screen readers.
    """
    text = _render(figure, "svg", transparent=True).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(re.escape(INK), "currentColor", text, flags=re.IGNORECASE)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'xlink:href="#{name}-')
    text = text.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def _render(figure: Figure, kind: str, *, transparent: bool) -> bytes:
    matplotlib = require("matplotlib")
    # without a date and with a fixed salt, the same numbers give the same file
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(_STYLE), without_font_warnings():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=DPI, transparent=transparent, metadata=metadata)
    return buffer.getvalue()
