"""Numbers and sizes as text, the same everywhere."""

from __future__ import annotations


def format_bytes(size: float) -> str:
    """Return a size in powers of 1000: "8.3 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def pluralize(count: int, noun: str) -> str:
    """Return a number with its noun: "1 layer", "2 layers"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
