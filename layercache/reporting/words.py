"""Numbers and lists as people write them."""

from __future__ import annotations

from collections.abc import Sequence


def count(n: int, noun: str) -> str:
    """A number and its noun: 1 data set, 2 data sets."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Joined for a sentence: a, a and b, or a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))


def percent(share: float) -> str:
    """A share as a percentage: 0.9712 is 97.1 %."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def points(value: float) -> str:
    """Percentage points with their sign: +1.4, −0.3, 0.0."""
    rounded = round(value, 1)
    return f"{rounded:+.1f}".replace("-", "\N{MINUS SIGN}") if rounded else "0.0"


def probability(p: float) -> str:
    """A p value: p = 0.034, or p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
