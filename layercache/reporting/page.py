"""The page: sections of plates, tables, galleries and notes, written as one HTML file that needs nothing else.

No script and no address: the page's own security policy forbids the browser to fetch anything. Figures are SVG in the reader's own text colour.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

import pandas as pd

from layercache.reporting.plotting.figure import to_page_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THUMBNAIL = 112
"""Longest side of a thumbnail, in pixels."""
FONT_FLOOR = 0.74
"""A figure is never shrunk below this share of its own width; a narrower screen scrolls it sideways."""


@dataclass(frozen=True, kw_only=True)
class FigureBlock:
    """A figure with its caption."""

    name: str
    """Also the name of its PNG and SVG files."""
    figure: Figure
    """What is drawn."""
    caption: str
    """What it shows, in plain words."""

    def html(self) -> str:
        """A <figure> that scrolls sideways where the screen is narrow."""
        svg = to_page_svg(self.figure, name=self.name, label=self.caption)
        inches = self.figure.get_size_inches()[0]
        size = f"max-width:{96 * inches:.0f}px;min-width:{FONT_FLOOR * 96 * inches:.0f}px"
        svg = svg.replace("<svg ", f'<svg style="{size}" ', 1)
        return f'<figure id="{self.name}"><div class="scroll" tabindex="0">{svg}</div><figcaption>{escape(self.caption)}</figcaption></figure>'


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows to read; the whole of it goes to a CSV file of this name."""

    name: str
    """Name of the CSV file."""
    frame: pd.DataFrame
    """The rows."""
    caption: str
    """What they are."""
    view: pd.DataFrame | None = None
    """What the page shows of it, if not the rows as they are."""
    shown: int = 60
    """Rows on the page at most; the file has them all."""
    digits: int = 2
    """Decimals on the page; the file has them all."""

    def html(self) -> str:
        """A <table> that scrolls sideways where the screen is narrow; with nothing to show, a line that names the file."""
        if not self.shown:
            return f'<p class="soft">{escape(self.caption)} {len(self.frame)} rows in <code>tables/{escape(self.name)}.csv</code>.</p>'
        view = self.frame if self.view is None else self.view
        text = [not pd.api.types.is_numeric_dtype(view[c]) for c in view]
        head = "".join(
            _cell("th", str(c).replace("_", " "), t) for c, t in zip(view, text, strict=True)
        )
        body = [
            "<tr>"
            + "".join(_cell("td", self._write(v), t) for v, t in zip(row, text, strict=True))
            + "</tr>"
            for row in view.head(self.shown).itertuples(index=False)
        ]
        more = len(body) < len(self.frame)
        caption = self.caption + (
            f" All {len(self.frame)} rows are in tables/{self.name}.csv." if more else ""
        )
        return (
            f'<p class="soft" id="table-{self.name}-caption">{escape(caption)}</p>'
            f'<div class="scroll" tabindex="0"><table id="table-{self.name}" aria-labelledby="table-{self.name}-caption">'
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        )

    def _write(self, value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, float):
            return "" if value != value else f"{value:.{self.digits}f}"
        return "" if value is None else str(value)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image of a gallery."""

    image: Any
    """A PIL image, or None where it is not at hand."""
    label: str
    """Words below it."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Small images with a few words each."""

    caption: str
    """What they have in common."""
    pictures: Sequence[Picture]
    """In the order shown."""

    def html(self) -> str:
        """A grid that fits the screen; each image is a JPEG inside the page."""
        items = "".join(f"<li>{_thumbnail(p)}{escape(p.label)}</li>" for p in self.pictures)
        return f'<p class="soft">{escape(self.caption)}</p><ul class="gallery">{items}</ul>'


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph."""

    text: str
    """Plain words."""

    def html(self) -> str:
        """A <p>."""
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading within a section."""

    text: str
    """Plain words."""

    def html(self) -> str:
        """An <h3>."""
        return f"<h3>{escape(self.text)}</h3>"


@dataclass(frozen=True, kw_only=True)
class CommandHint:
    """Says what is not there, and the commands that make it."""

    text: str
    """What is missing."""
    commands: Sequence[str] = ()
    """To be typed as they stand."""

    def html(self) -> str:
        """A set-off box."""
        commands = f"<pre>{escape(chr(10).join(self.commands))}</pre>" if self.commands else ""
        return f'<div class="missing">{escape(self.text)}{commands}</div>'


Block = FigureBlock | Table | Gallery | Text | Heading | CommandHint


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page."""

    title: str
    """Its heading, and its line in the contents."""
    blocks: Sequence[Block]
    """From top to bottom."""

    @property
    def anchor(self) -> str:
        """Where the contents point to."""
        return "s-" + re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One number of the first screen."""

    number: str
    """Short."""
    words: str
    """What it counts."""
    mood: str = ""
    """good, bad, or neither."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything on the page."""

    title: str
    """Heading and window title."""
    headline: Sequence[str]
    """The result in a few sentences; the first screen shows them."""
    tiles: Sequence[Tile]
    """The result in a few numbers."""
    sections: Sequence[Section]
    """In order."""
    footer: str
    """Where it comes from."""

    def html(self) -> str:
        """The whole document."""
        template = Template(
            files("layercache.reporting").joinpath("template.html").read_text(encoding="utf-8")
        )
        sections = [
            f'<section id="{s.anchor}"><h2>{escape(s.title)}</h2>\n'
            + "\n".join(block.html() for block in s.blocks)
            + "</section>"
            for s in self.sections
        ]
        return template.substitute(
            title=escape(self.title),
            headline="\n".join(f'<p class="headline">{escape(line)}</p>' for line in self.headline),
            tiles="\n".join(
                f'<div class="tile"><b class="{t.mood}">{escape(t.number)}</b><span>{escape(t.words)}</span></div>'
                for t in self.tiles
            ),
            contents="\n".join(
                f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in self.sections
            ),
            sections="\n".join(sections),
            footer=escape(self.footer),
        )


def _cell(tag: str, value: str, text: bool) -> str:
    kind = ' class="text"' if text else ""
    scope = ' scope="col"' if tag == "th" else ""
    return f"<{tag}{kind}{scope}>{escape(value)}</{tag}>"


def _thumbnail(picture: Picture) -> str:
    if picture.image is None:
        return ""
    image = picture.image.convert("RGB")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(picture.label)}" src="data:image/jpeg;base64,{data}">'
