"""Names of tokens: the kind of a token, and its place on the image.

A name is the token's kind ("cls", "ap", "reg" ...) or, of spatial tokens, the kind and a number:
"grid:K/0" to "grid:K/<K*K - 1>" and "patch/0" to "patch/<P - 1>", row by row from the top left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def token_kind(name: str) -> str:
    """Return the kind of a token: "cls", "ap", "reg", "std", "max", "attn", "grid" or "patch"."""
    return re.split("[:/]", name, maxsplit=1)[0]


def kind_word(name: str) -> str:
    """Return the kind of a token as options name it: "grid:4" for "grid:4/7", "cls" for "cls"."""
    return name.partition("/")[0]


def kind_words(names: Iterable[str]) -> list[str]:
    """Return the kinds of tokens as options name them, each once, in their order."""
    return list(dict.fromkeys(map(kind_word, names)))


def is_spatial(name: str) -> bool:
    """Return whether a token belongs to one place of the image."""
    return "/" in name


def requested_kinds(words: str) -> set[str]:
    """Return the token kinds in a text such as "cls+ap"; "all" stands for "cls" and "patch"."""
    kinds = {word.strip() for word in re.split("[+,]", words)}
    return kinds - {"all"} | {"cls", "patch"} if "all" in kinds else kinds
