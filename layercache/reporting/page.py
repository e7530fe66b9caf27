"""The HTML page: what its blocks contain; `templates/` decides how they look.

The page is one file that needs nothing else. It contains no script and no external address, and its
own content security policy forbids the browser to fetch anything. Figures are inline SVG in the
reader's text colour. The templates escape every value except the SVG.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from layercache.reporting.dependencies import require
from layercache.reporting.plotting.figure import to_page_svg

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

THUMBNAIL_SIZE = 112
"""Longest side of a thumbnail, in pixels."""
MIN_FIGURE_SCALE = 0.74
"""Smallest scale at which a figure is shown; on a narrower screen it scrolls sideways."""


@dataclass(frozen=True, kw_only=True)
class FigureBlock:
    """A figure with its caption."""

    macro: ClassVar[str] = "figure"
    name: str
    """Element id on the page, and stem of the PNG and SVG files."""
    figure: Figure
    """The plot."""
    caption: str
    """Explanation of the plot, also read by screen readers."""

    def svg(self) -> str:
        """Return the figure as an <svg> element with its size limits."""
        svg = to_page_svg(self.figure, name=self.name, label=self.caption)
        width = 96 * self.figure.get_size_inches()[0]
        size = f"max-width:{width:.0f}px;min-width:{MIN_FIGURE_SCALE * width:.0f}px"
        return svg.replace("<svg ", f'<svg style="{size}" ', 1)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; the page shows an excerpt, a CSV file contains all of it."""

    macro: ClassVar[str] = "table"
    name: str
    """Stem of the CSV file."""
    frame: pd.DataFrame
    """Content of the CSV file."""
    caption: str
    """Explanation above the table."""
    view: pd.DataFrame | None = None
    """Version for the page; `frame` if None."""
    max_rows: int = 60
    """Number of rows on the page at most; with 0 the page only names the file."""
    decimals: int = 2
    """Decimals of floats on the page."""

    def header(self) -> list[tuple[str, str]]:
        """Return the CSS class ("text" or "number") and the label of each column."""
        return [
            (kind, str(column).removeprefix("n_").replace("_", " "))
            for kind, column in self._columns()
        ]

    def rows(self) -> list[list[tuple[str, str]]]:
        """Return the CSS class and the text of each cell of the rows to show."""
        kinds = [kind for kind, _ in self._columns()]
        return [
            [(kind, self._format(value)) for kind, value in zip(kinds, row, strict=True)]
            for row in self._shown.head(self.max_rows).itertuples(index=False)
        ]

    @property
    def _shown(self) -> pd.DataFrame:
        return self.frame if self.view is None else self.view

    def _columns(self) -> list[tuple[str, Any]]:
        numeric = pd.api.types.is_numeric_dtype
        return [("number" if numeric(self._shown[c]) else "text", c) for c in self._shown]

    def _format(self, value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if value is None or value != value:
            return ""
        return f"{value:.{self.decimals}f}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image of a gallery."""

    image: Any
    """PIL image, or None if it is not available."""
    label: str
    """Text below the image."""

    def data_uri(self) -> str:
        """Return the image as a small JPEG in a data: URI."""
        image = self.image.convert("RGB")
        image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=85)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A grid of small images."""

    macro: ClassVar[str] = "gallery"
    caption: str
    """Property that the images share."""
    pictures: Sequence[Picture]
    """Images in the order shown."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph."""

    macro: ClassVar[str] = "text"
    text: str
    """Plain text."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading within a section."""

    macro: ClassVar[str] = "heading"
    text: str
    """Plain text."""


@dataclass(frozen=True, kw_only=True)
class CommandHint:
    """A note on missing results; it unfolds to the commands that produce them."""

    macro: ClassVar[str] = "command_hint"
    text: str
    """Missing input."""
    commands: Sequence[str] = ()
    """Commands to run as they are."""

    def command_parts(self) -> list[list[str]]:
        """Return each command in parts between which a line may break: before each option."""
        return [re.split(r" (?=--)", command) for command in self.commands]


Block = FigureBlock | Table | Gallery | Text | Heading | CommandHint


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page."""

    title: str
    """Heading, also listed in the contents."""
    blocks: Sequence[Block]
    """Blocks from top to bottom."""

    @property
    def anchor(self) -> str:
        """Element id that the contents link to."""
        return "s-" + re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A key figure at the top of the page."""

    number: str
    """The figure."""
    label: str
    """Quantity of the figure."""
    tone: str = ""
    """Colour: "good", "bad" or "" for neutral."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole page."""

    title: str
    """Heading and window title."""
    headline: Sequence[str]
    """The result in a few sentences, at the top of the page."""
    tiles: Sequence[Tile]
    """The result in a few figures."""
    sections: Sequence[Section]
    """Sections from top to bottom."""
    footer: str
    """Version, date and source."""

    def html(self) -> str:
        """Return the HTML document.

        Raises:
            MissingExtraError: If Jinja2 is not installed.
        """
        jinja2 = require("jinja2")
        environment: Environment = jinja2.Environment(
            loader=jinja2.PackageLoader("layercache.reporting"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        return environment.get_template("page.html").render(page=self)
