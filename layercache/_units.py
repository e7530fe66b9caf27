"""Sizes, counts and lists as text: one way to write each."""

from __future__ import annotations

import re
from collections.abc import Sequence

from layercache.errors import OptionError

BYTES = {
    "": 1,
    "B": 1,
    "BYTES": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
"""Bytes of each unit that `parse_bytes` accepts, in capitals."""


def format_bytes(size: float) -> str:
    """Return a size in decimal units with three significant digits, such as "8.3 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def parse_bytes(text: str | int, *, name: str, minimum: int = 1) -> int:
    """Return the number of bytes in a text such as "8GB", "500MiB" or "123456".

    Args:
        text: Number with an optional unit, decimal (kB, MB, GB, TB) or binary (KiB, MiB, GiB, TiB).
        name: Name of the parameter, for the error.
        minimum: Smallest number accepted, before the unit.

    Raises:
        OptionError: The text is no size, or below the minimum.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(text))
    if not match or match[2].upper() not in BYTES or float(match[1]) < minimum:
        raise OptionError(f"{name}: expected a size such as 8GB or 500MiB, got {text!r}")
    return int(float(match[1]) * BYTES[match[2].upper()])


def format_duration(seconds: float) -> str:
    """Return a duration in one unit, such as "40 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def pluralize(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 dataset" or "1,200 datasets"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def join_words(words: Sequence[str]) -> str:
    """Return words joined for a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))
