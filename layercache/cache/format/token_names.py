"""Names of tokens: which kind a token is of, and where on the image it lies.

A name is the token's kind ("cls", "ap", "reg" ...) or, of spatial tokens, the kind and a number:
"grid:K/0" to "grid:K/<K*K - 1>" and "patch/0" to "patch/<P - 1>", row by row from the top left.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from layercache.cache.format.spec import CacheSpec

_SPATIAL = re.compile(r"(?:grid:(\d+)|patch)/(\d+)", re.ASCII)


def token_kind(name: str) -> str:
    """Return the kind of a token: "cls", "ap", "reg", "std", "max", "attn", "grid" or "patch"."""
    return re.split("[:/]", name, maxsplit=1)[0]


def kind_word(name: str) -> str:
    """Return the kind of a token as options name it: "grid:4" for "grid:4/7", "cls" for "cls"."""
    return name.partition("/")[0]


def kind_words(names: Iterable[str]) -> list[str]:
    """Return the kinds of tokens as options name them, each once, in their order."""
    return list(dict.fromkeys(map(kind_word, names)))


def token_position(name: str) -> int | None:
    """Return the number of a spatial token, row by row from the top left; None if it is pooled."""
    match = _SPATIAL.fullmatch(name)
    return int(match[2]) if match else None


def is_spatial(name: str) -> bool:
    """Return whether a token lies at a place of the image."""
    return token_position(name) is not None


def token_grid(spec: CacheSpec, name: str) -> tuple[int, int]:
    """Return (rows, columns) of the grid of a spatial token.

    Position i of an h x w grid is in row i // w and column i % w.

    Args:
        spec: Spec of the cache that stores the token.
        name: Name of the token.

    Raises:
        ValueError: The token is pooled, or the spec does not tell the shape of the image.
    """
    match = _SPATIAL.fullmatch(name)
    if match is None:
        raise ValueError(f"token {name!r}: expected grid:K/I or patch/I")
    if match[1]:
        return int(match[1]), int(match[1])
    patches = sum(token_kind(token) == "patch" for token in spec.tokens)
    height, width = spec.preprocessing.get("input_size", (1, 1))
    rows = round(math.sqrt(patches * height / width))
    if rows == 0 or patches % rows or rows * width != patches // rows * height:
        raise ValueError(f"{patches} patches do not fill an image of {height} x {width} pixels")
    return rows, patches // rows
