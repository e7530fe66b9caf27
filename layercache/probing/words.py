"""Lists of numbers as they are typed: "0.1,0.01"."""

from __future__ import annotations

from typing import Any

from layercache.errors import OptionError


def numbers(text: str | None, *, option: str, whole: bool = False) -> Any:
    """The numbers of a list with commas, as floats or ints; None stays None. Raises OptionError."""
    if text is None:
        return None
    try:
        found = [int(word) if whole else float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        found = []
    if not found:
        raise OptionError(
            f"{option} is a list of {'whole ' if whole else ''}numbers such as {'1,5,10' if whole else '0.1,0.01'}; came {text!r}"
        )
    return found


def seed_numbers(text: str) -> Any:
    """`3` is three seeds (0, 1, 2), `4,7` are these two, `4,` is seed 4 alone. Raises OptionError."""
    found = numbers(text, option="--seeds", whole=True)
    if min(found) < 0 or (found == [0] and "," not in text):
        raise OptionError(
            f"--seeds is a number of seeds, at least 1, or a list of seeds from 0 on such as 4,7 (one seed: 4,); came {text!r}"
        )
    return found if "," in text else found[0]
