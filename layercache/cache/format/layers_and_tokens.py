"""Selection of (layer, token) pairs from the words given for layers and tokens."""

from __future__ import annotations

import re

from layercache.cache.format.cache_spec import CacheSpec
from layercache.cache.format.token_names import kind_words
from layercache.errors import OptionError, UnknownNameError

LAYER_WORDS = ("last", "mid-last", "quarter", "all")
_QUARTERS = {"last": (4,), "mid-last": (2, 4), "quarter": (1, 2, 3, 4)}
"""Layers of a word, as quarters of the depth."""


def parse_layers(layers: str, depth: int) -> tuple[int, ...]:
    """Return layer numbers out of 1..depth, ascending.

    Args:
        layers: `last`, `mid-last`, `quarter` (B/4, B/2, 3B/4, B), `all`, or numbers as in "1,5,9".
        depth: Number of blocks B of the model.

    Raises:
        OptionError: A number is outside 1..depth.
        UnknownNameError: It is neither a word nor numbers.
    """
    text = layers.strip()
    if text == "all":
        return tuple(range(1, depth + 1))
    if text in _QUARTERS:
        return tuple(sorted({max(1, quarter * depth // 4) for quarter in _QUARTERS[text]}))
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[+-]?\d+", part) for part in parts):
        hint = '(or numbers, as in "1,5,9")'
        raise UnknownNameError("layer choice", layers, LAYER_WORDS, hint=hint)
    numbers = tuple(sorted({int(part) for part in parts}))
    outside = [number for number in numbers if not 1 <= number <= depth]
    if outside:
        raise OptionError(
            f"layers: expected numbers from 1 to {depth} for this model, got "
            f"{', '.join(map(str, outside))}"
        )
    return numbers


def parse_tokens(tokens: str, stored: tuple[str, ...]) -> tuple[str, ...]:
    """Return token names out of `stored`, in stored order.

    Args:
        tokens: "cls", "ap", "std" .., "cls+ap" (or "cls,ap"), "grid:K", "patch" (all of them), full
            names, or "all": the class token, if stored, and every patch token.
        stored: Names of the stored tokens.

    Raises:
        UnknownNameError: Nothing of that name is stored; the message lists what is.
    """
    selected: set[str] = set()
    for word in (part.strip() for part in re.split(r"[+,]", tokens)):
        if word == "all":
            names = {token for token in stored if token.startswith("patch/")}
            if names:
                names |= {"cls"} & set(stored)
        else:
            names = {
                token
                for token in stored
                if word and (token == word or token.startswith(f"{word}/"))
            }
        if not names:
            kinds = kind_words(stored)
            hint = f"(this cache stores {', '.join(kinds)}; extract it again with other tokens)"
            raise UnknownNameError("token kind", word, kinds, hint=hint)
        selected |= names
    return tuple(token for token in stored if token in selected)


def select_pairs(
    spec: CacheSpec, *, layers: str | tuple[int, ...], tokens: str | tuple[str, ...]
) -> tuple[tuple[int, str], ...]:
    """Return the selected (layer, token) pairs of a cache, layer-major.

    Args:
        spec: The cache's.
        layers: A word as in `parse_layers`, or numbers.
        tokens: A word as in `parse_tokens`, or names.

    Raises:
        OptionError: A layer is not stored.
        UnknownNameError: A token is not stored.
    """
    numbers = parse_layers(layers, spec.depth) if isinstance(layers, str) else tuple(layers)
    names = parse_tokens(tokens, spec.tokens) if isinstance(tokens, str) else tuple(tokens)
    missing = [number for number in numbers if number not in spec.layers]
    if missing:
        stored = ", ".join(map(str, spec.layers))
        raise OptionError(
            f"layers: expected some of {stored}, which this cache stores, got "
            f"{', '.join(map(str, missing))}: extract it again with layers {layers}"
        )
    for name in names:
        if name not in spec.tokens:
            raise UnknownNameError("token", name, spec.tokens)
    return tuple((number, name) for number in numbers for name in names)
