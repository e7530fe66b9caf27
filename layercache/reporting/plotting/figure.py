"""The canvas that every plot is drawn on: one style, one palette, saved as PNG, as SVG, or as SVG for the page.

A plot is a `matplotlib.figure.Figure` of its own (never pyplot: no global state, no display needed). Everything that is ink (text, axes, grid)
has one colour, so that the page can replace it by the reader's own text colour; data colours are mid-tones that stand out on white and on
near-black alike.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from layercache.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1c2128"
"""Text, axes and grid; becomes `currentColor` on the page."""
PALETTE = ("#2f81c7", "#dd7722", "#2b9a66", "#9a6bd1", "#c8516b", "#7d8590", "#a58a1f", "#1f9aa8")
"""Series colours, in order; contrast of at least 3:1 on white and on near-black."""
SEQUENTIAL = "viridis"
"""Colour map of a magnitude: even steps to the eye, readable in grey and by the colour-blind."""
DIVERGING = "PuOr"
"""Colour map of a gain or a loss around 0."""
DPI = 160
"""Of PNG files."""

_STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
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
    """Runs a drawing function in the project's style and leaves matplotlib's settings as they were. MissingExtraError without matplotlib."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        matplotlib = require("matplotlib")
        with matplotlib.rc_context(_STYLE):
            figure = draw(*args, **kwargs)
            # arranged once and fixed: the layout engine drifts by a fraction of a pixel each time it runs
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            return figure

    return drawn


def require(package: str) -> Any:
    """The imported package. Raises MissingExtraError if the extra `report` is not installed."""
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, "report") from error


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches whose parts arrange themselves without overlap."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(
    figure: Figure, stem: str | Path, *, formats: tuple[str, ...] = ("png", "svg")
) -> list[Path]:
    """Writes STEM.png and STEM.svg on a white ground, byte for byte the same every time; returns the paths. A suffix on `stem` picks one format."""
    stem = Path(stem)
    if stem.suffix in (".png", ".svg"):
        stem, formats = stem.with_suffix(""), (stem.suffix[1:],)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in formats:
        path = stem.with_name(f"{stem.name}.{kind}")
        path.write_bytes(_render(figure, kind, transparent=False))
        paths.append(path)
    return paths


def to_page_svg(figure: Figure, *, name: str, label: str) -> str:
    """The figure as an <svg> element for an HTML page: no ground, ink in the reader's text colour, identifiers that start with `name`.

    `label` is what a screen reader says.
    """
    text = _render(figure, "svg", transparent=True).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(re.escape(INK), "currentColor", text, flags=re.IGNORECASE)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'xlink:href="#{name}-')
    text = text.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")
    escaped = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escaped}" ', 1)


def _render(figure: Figure, kind: str, *, transparent: bool) -> bytes:
    matplotlib = require("matplotlib")
    # without a date, and with the fixed salt, the same numbers give the same file
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(_STYLE):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=DPI, transparent=transparent, metadata=metadata)
    return buffer.getvalue()
