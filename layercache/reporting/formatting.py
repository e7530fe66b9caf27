"""Percentages, points and p values as text for the page."""

from __future__ import annotations


def format_percent(fraction: float) -> str:
    """Return a fraction as a percentage: 0.9712 is 97.1 %."""
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def capitalize(text: str) -> str:
    """Return text with a capital first letter, as at the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def format_points(points: float) -> str:
    """Return percentage points with their sign: +1.4, −0.3, 0.0."""
    rounded = round(points, 1)
    return f"{rounded:+.1f}".replace("-", "\N{MINUS SIGN}") if rounded else "0.0"


def format_p_value(p: float) -> str:
    """Return a p value: "0.034" or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
