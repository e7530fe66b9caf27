"""Text in figures: its estimated width, line breaks, and fonts for characters outside DejaVu Sans.

matplotlib comes with DejaVu Sans, which has no Chinese, Japanese or Korean characters. Names of
classes and datasets may be in any script.
"""

from __future__ import annotations

import logging
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from layercache._log_level import log_level

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

FONT = "DejaVu Sans"
"""Font of all figures; others only fill its gaps."""
PLACEHOLDER_FONTS = "Last Resort"
"""Start of the names of fonts that draw a placeholder for every character."""


def text_width(text: str, *, points: float, bold: bool = False) -> float:
    """Estimate the width of a line in inches, generously: 0.62 em per character, 0.7 if bold."""
    em = 0.7 if bold else 0.62
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return (wide + em * (len(text) - wide)) * points / 72


def wrap_text(text: str, *, inches: float, points: float, bold: bool = False) -> str:
    """Break a text into lines of at most this width, within a word only if it is longer."""

    def fits(line: str) -> bool:
        return len(line) <= 1 or text_width(line, points=points, bold=bold) <= inches

    lines = [""]
    for word in text.split():
        if fits(f"{lines[-1]} {word}"):
            lines[-1] = f"{lines[-1]} {word}".strip()
            continue
        while not fits(word):
            length = next(n for n in range(len(word) - 1, 0, -1) if fits(word[:n]))
            lines.append(word[:length])
            word = word[length:]
        lines.append(word)
    return "\n".join(line for line in lines if line)


def set_fallback_fonts(figure: Figure) -> None:
    """Give texts with characters that DejaVu Sans lacks installed fonts that have them.

    Without such a font a PNG file shows boxes, which is logged once; an SVG file contains the
    characters themselves, so a browser shows them in the reader's fonts.
    """
    from matplotlib.text import Text

    for axes in figure.axes:
        axes.get_xticklabels(), axes.get_yticklabels()  # tick labels exist once asked for
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    missing = frozenset("".join(text.get_text() for text in texts)) - _characters(FONT)
    missing = frozenset(c for c in missing if c.isprintable())
    if not missing:
        return
    families = _covering_families(missing)
    for text in texts:
        if missing & set(text.get_text()):
            text.set_fontfamily([FONT, *families])
    if missing.difference(*map(_characters, families)):
        _log_missing_fonts()


@contextmanager
def without_font_warnings() -> Iterator[None]:
    """Silence matplotlib's warnings of missing characters, which `set_fallback_fonts` logs.

    Neither does it log that a font for other scripts has no bold or regular weight.
    """
    with log_level("matplotlib.font_manager", logging.ERROR), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _covering_families(characters: frozenset[str]) -> list[str]:
    """Return installed font families that together have as many of the characters as possible."""
    families: list[str] = []
    for family in _installed_families():
        if found := characters & _characters(family):
            families.append(family)
            characters -= found
        if not characters:
            break
    return families


@cache
def _installed_families() -> tuple[str, ...]:
    """Return the installed families, those with "sans" in their names first."""
    from matplotlib.font_manager import fontManager

    families = {font.name for font in fontManager.ttflist if font.style == "normal"}
    families = {name for name in families if not name.startswith((FONT, PLACEHOLDER_FONTS))}
    return tuple(sorted(families, key=lambda name: ("Sans" not in name, name)))


@cache
def _characters(family: str) -> frozenset[str]:
    """Return the characters of a font; none if it cannot be read or scaled."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    try:
        font = get_font(findfont(FontProperties(family=family), fallback_to_default=False))
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@cache
def _log_missing_fonts() -> None:
    from matplotlib import get_cachedir

    logger.warning(
        "some names have characters that no installed font has: PNG figures show boxes for them "
        "(the page and SVG figures show them in the reader's fonts). Install a font that has them, "
        "such as Noto Sans CJK, and remove matplotlib's list of fonts (%s/fontlist*.json)",
        get_cachedir(),
    )
