"""Which (layer, token) pairs of a cache the words for layers and tokens select."""

from __future__ import annotations

import re

from layercache.cache.format.spec import CacheSpec
from layercache.errors import OptionError, UnknownNameError

LAYER_WORDS = ("last", "mid-last", "quarter", "all")


def parse_layers(layers: str, depth: int) -> tuple[int, ...]:
    """Return layer numbers out of 1..depth, ascending.

    `layers` is `last`, `mid-last`, `quarter` (B/4, B/2, 3B/4, B), `all`, or numbers as in "1,5,9".

    Raises OptionError if a number is outside 1..depth or no number is given, UnknownNameError if a
    word is not known.
    """
    text = layers.strip()
    if text in LAYER_WORDS:
        quarters = {"last": (4,), "mid-last": (2, 4), "quarter": (1, 2, 3, 4)}
        if text == "all":
            return tuple(range(1, depth + 1))
        return tuple(sorted({max(1, q * depth // 4) for q in quarters[text]}))
    parts = [p.strip() for p in text.split(",")]
    if not all(re.fullmatch(r"[+-]?\d+", p) for p in parts):
        raise UnknownNameError(
            "layer choice", layers, LAYER_WORDS, hint='(or numbers, as in "1,5,9")'
        )
    numbers = tuple(sorted({int(p) for p in parts}))
    outside = [n for n in numbers if not 1 <= n <= depth]
    if outside:
        raise OptionError(
            f"--layers {layers}: this model has layers 1 to {depth}, not "
            f"{', '.join(map(str, outside))}"
        )
    return numbers


def parse_tokens(tokens: str, stored: tuple[str, ...]) -> tuple[str, ...]:
    """Return token names out of `stored`, in stored order.

    `tokens` is "cls", "ap", "cls+ap" (or "cls,ap"), "grid:K", "patch" (all of them), "all", or full
    names.

    "all" is the class token, if stored, and every patch token. Raises UnknownNameError, naming what
    is stored.
    """
    chosen: set[str] = set()
    for word in (w.strip() for w in re.split(r"[+,]", tokens)):
        if word == "all":
            names = {t for t in stored if t.startswith("patch/")}
            names |= {"cls"} & set(stored) if names else set()
        else:
            names = {t for t in stored if t == word or t.startswith(word + "/")} if word else set()
        if not names:
            kinds = list(dict.fromkeys(t.split("/")[0] for t in stored))
            raise UnknownNameError(
                "token kind",
                word,
                kinds,
                hint=f"(this cache stores {', '.join(kinds)}; extract others with --tokens)",
            )
        chosen |= names
    return tuple(t for t in stored if t in chosen)


def select_pairs(
    spec: CacheSpec, *, layers: str | tuple[int, ...], tokens: str | tuple[str, ...]
) -> tuple[tuple[int, str], ...]:
    """Return the selected (layer, token) pairs, layer-major.

    Layers and tokens are words as in `parse_layers` and `parse_tokens`, or the numbers and names
    themselves.

    Raises OptionError if a layer is not stored, UnknownNameError if a token kind is not.
    """
    numbers = parse_layers(layers, spec.depth) if isinstance(layers, str) else tuple(layers)
    names = parse_tokens(tokens, spec.tokens) if isinstance(tokens, str) else tuple(tokens)
    missing = [n for n in numbers if n not in spec.layers]
    if missing:
        stored = ", ".join(map(str, spec.layers))
        raise OptionError(
            f"layer {', '.join(map(str, missing))} is not in this cache, which stores {stored}: "
            f"extract again with --layers {layers}"
        )
    for name in names:
        if name not in spec.tokens:
            raise UnknownNameError("token", name, spec.tokens)
    return tuple((n, t) for n in numbers for t in names)
