"""Class names: one spelling per name, and their order."""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterable


def unify_spellings(names: Iterable[str]) -> dict[str, str]:
    """Return name -> the spelling to use, so that one text in two Unicode forms is one name.

    "é" is one code point (NFC, as most systems write it) or two (NFD, as macOS writes file names).
    A name that occurs in one form only keeps it; otherwise NFC is used.
    """
    forms: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        forms[unicodedata.normalize("NFC", name)].add(name)
    return {
        name: nfc if len(spellings) > 1 else name
        for nfc, spellings in forms.items()
        for name in spellings
    }


def is_no_label(text: str) -> bool:
    """Return whether a label is empty or -1, the usual number for "no label"."""
    return text.strip() in ("", "-1", "-1.0")


def sort_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names sorted: as numbers if all are numbers ("2", "10.0"), else by code point."""
    distinct = set(names)
    numbers = {name: _number(name) for name in distinct}
    if all(number is not None for number in numbers.values()):
        return tuple(sorted(distinct, key=lambda name: (numbers[name], name)))
    return tuple(sorted(distinct))


def _number(name: str) -> float | int | None:
    try:
        if name.isdecimal():
            return int(name)  # exact, however long
        number = float(name)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
