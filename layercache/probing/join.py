"""Several encoders in one head: caches of the same images, whose tokens are joined.

For a head that concatenates tokens, narrower ones are padded with zeros, which does not change its
output. An attentive head maps the tokens of each encoder to a shared width
(heads/multi_encoder.py), or with "pad" pads them to the largest, as the authors of arXiv 2601.09322
pad the projected layer of CLIP.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from layercache.cache.cache import Cache, extract_command
from layercache.cache.find import find_caches, open_cache
from layercache.cache.format.layout import SPEC_KEY
from layercache.cache.format.origin import model_source
from layercache.cache.storage.open import open_source
from layercache.cache.storage.paths import CachePath, as_cache_path
from layercache.errors import (
    CacheAmbiguousError,
    CacheNotFoundError,
    HeadMismatchError,
    OptionError,
    UnknownNameError,
)
from layercache.probing.heads.spec import BASELINES
from layercache.probing.token_selection import TokenSelection, select_tokens

logger = logging.getLogger(__name__)

JoinedCaches = Cache | str | CachePath | Sequence[Cache | str | CachePath]
PAD = "pad"
MAPPING = ("attentive",)
"""Heads that can map tokens to a shared width."""
JOINABLE = ("linear", *MAPPING, *BASELINES)
"""Heads that several encoders can be joined for."""


def open_joined(cache: Cache, join: JoinedCaches, *, splits: Sequence[str]) -> list[Cache]:
    """Return the caches to join to `cache`, each once.

    Args:
        cache: The first cache.
        join: Caches, their folders, or names of models that have a cache of the same dataset below
            the same root.
        splits: Splits that are read.

    Raises:
        CacheNotFoundError: There is no such cache.
        CacheAmbiguousError: Several caches of a model match.
        HeadMismatchError: A cache is of other images.
        OptionError: A cache is joined to itself.
    """
    listed = [join] if isinstance(join, Cache | str | CachePath) else join
    joined: dict[CachePath, Cache] = {}
    for given in listed:
        other = given if isinstance(given, Cache) else _open(cache, given)
        if other.path == cache.path or other.path in joined:
            raise OptionError(
                f"join: {other.path} is given twice: join caches of other encoders, and choose "
                "layers of one encoder with layers (--layers)"
            )
        check_same_images(cache, other, splits=splits)
        joined[other.path] = other
    return list(joined.values())


def check_same_images(cache: Cache, other: Cache, *, splits: Sequence[str]) -> None:
    """Raise HeadMismatchError unless the splits of two caches hold the same images.

    The specs prove it by digests of the ids and of the images. Imported tokens come without images,
    so there the ids decide.
    """
    for name in splits:
        ours, theirs = cache.spec.dataset.splits.get(name), other.spec.dataset.splits.get(name)
        if ours is None or theirs is None or (ours.rows, ours.ids) != (theirs.rows, theirs.ids):
            found = "no such split" if theirs is None else f"{theirs.rows} samples of other ids"
            raise HeadMismatchError(
                f"join: expected the {0 if ours is None else ours.rows} samples of split {name!r} "
                f"of {cache.path} in {other.path}, got {found}: extract both from the same "
                f"dataset, with the same limit: {extract_command(cache, model=other.spec.model)}"
            )
        if ours.content != theirs.content and not (cache.spec.imported or other.spec.imported):
            raise HeadMismatchError(
                f"join: the images of split {name!r} were changed between {cache.path} and "
                f"{other.path} (their digests differ): extract one of them again: "
                f"{extract_command(cache, model=other.spec.model)}"
            )


def check_joinable(head: str) -> None:
    """Raise OptionError unless several encoders can be joined for a head."""
    if head not in JOINABLE:
        raise OptionError(
            f"join: several encoders can be joined for the heads {', '.join(JOINABLE)}, not for "
            f"{head}: choose one of these, or pool probes of single encoders with `layercache "
            "ensemble`"
        )


def join_tokens(
    tokens: TokenSelection,
    others: Sequence[Cache],
    *,
    head: str,
    layers: str | None,
    kinds: str | None,
) -> TokenSelection:
    """Return the tokens of a head with those of further encoders, chosen by the same words.

    Args:
        tokens: Tokens of the first encoder.
        others: Caches of the further encoders.
        head: Name of the head.
        layers: Layer choice of each encoder.
        kinds: Token kinds.

    Raises:
        OptionError: A cache does not store the tokens.
    """
    parts = [select_tokens(c, head=head, layers=layers, tokens=kinds) for c in others]
    return replace(
        tokens,
        sources=tokens.sources + tuple(source for part in parts for source in part.sources),
        layers=" & ".join(dict.fromkeys([tokens.layers, *(part.layers for part in parts)])),
        kinds=" & ".join(dict.fromkeys([tokens.kinds, *(part.kinds for part in parts)])),
        pooled=tokens.pooled + sum(part.pooled for part in parts),
        joined=True,
    )


def joined_shape(
    tokens: TokenSelection, *, head: str, join_width: int | str | None
) -> dict[str, Any]:
    """Return width, encoder_tokens and encoder_widths of the `HeadSpec` of joined tokens.

    Args:
        tokens: Joined tokens, or those of one encoder.
        head: Name of the head.
        join_width: Shared width, "pad", or None for a map to the largest width.

    Raises:
        OptionError: The width is out of range, or the head has no map.
    """
    if not tokens.joined or head not in MAPPING or join_width == PAD:
        return {"width": tokens.width}
    return {
        "width": tokens.width if join_width is None else int(join_width),
        "encoder_tokens": tuple(len(pairs) for _, pairs in tokens.sources),
        "encoder_widths": tuple(cache.spec.width for cache, _ in tokens.sources),
    }


def check_join_width(join_width: int | str | None, *, joined: bool) -> int | str | None:
    """Validate the shared width; return it as a number, "pad" or None.

    Raises:
        OptionError: It is none of these, or nothing is joined.
    """
    if join_width is None:
        return None
    if not joined:
        raise OptionError(
            "join_width: sets the width that joined encoders share, and none are joined: give join "
            "(--join MODEL), or leave join_width out"
        )
    text = str(join_width)
    if text != PAD and not (text.isdecimal() and int(text) > 0):
        raise OptionError(
            f"join_width: expected {PAD} or a width of at least 1, got {join_width!r}"
        )
    return PAD if text == PAD else int(text)


def _open(cache: Cache, given: str | CachePath) -> Cache:
    if open_source(as_cache_path(given)).stat(SPEC_KEY) is not None:
        return open_cache(given)
    root, model = cache.path.parents[2], model_source(str(given))
    caches = [
        other
        for other in find_caches(root, dataset=cache.spec.dataset.name)
        if other.path != cache.path
    ]
    models = sorted({other.spec.model for other in caches})
    named = [other for other in caches if other.spec.model == model]
    if not named and models:
        raise UnknownNameError(
            f"model to join on {cache.spec.dataset.name}",
            str(given),
            models,
            hint=f"(join also takes the folder of a cache; to extract: "
            f"{extract_command(cache, model=str(given))})",
        )
    if not named:
        raise CacheNotFoundError(
            f"join: {str(given)!r} is no folder of a cache, and below {root} there is no further "
            f"cache of {cache.spec.dataset.name}: make one with: "
            f"{extract_command(cache, model=str(given))}"
        )
    same = [other for other in named if other.spec.dataset == cache.spec.dataset] or named
    if len(same) > 1:
        listed = "\n".join(f"  {other.path}" for other in same)
        raise CacheAmbiguousError(
            f"join: {len(same)} caches of {model} on {cache.spec.dataset.name} match; give the "
            f"folder of one:\n{listed}"
        )
    return same[0]
