"""Which cache a probe reads, where several fit the words: those that differ in nothing but what they store hold the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from layercache.cache.cache import Cache
from layercache.cache.find import find_caches, matching_caches, open_cache
from layercache.cache.format.spec import sha256_json
from layercache.cache.storage.paths import CachePath, cache_root
from layercache.errors import CacheAmbiguousError, OptionError, UnknownNameError
from layercache.probing.spec import select_tokens


def choose_cache(
    *,
    root: str | CachePath | None = None,
    model: str | None = None,
    dataset: str | None = None,
    fingerprint: str | None = None,
    head: Sequence[str],
    layers: Sequence[str] | None = None,
    tokens: Sequence[str] | None = None,
) -> Cache:
    """The cache that matches, as `open_cache` has it; of several that differ only in the layers and tokens that they store, the smallest that
    has what these heads need.

    Raises CacheNotFoundError, or CacheAmbiguousError where the caches differ in anything else (weights, samples, preprocessing, ...) or none serves.
    """
    try:
        return open_cache(root=root, model=model, dataset=dataset, fingerprint=fingerprint)
    except CacheAmbiguousError:
        found = matching_caches(
            cache_root(root), model=model, dataset=dataset, fingerprint=fingerprint
        )
        serving = [c for c in found if _serves(c, head, layers, tokens)]
        if len({_kind(c) for c in found}) > 1 or not serving:
            raise
        return min(serving, key=_size)


def spatial_cache(cache: Cache, *, spatial: str, layers: str) -> Cache | None:
    """Another cache of the same weights, images and options below the same root that stores these tokens; None where `cache` has them itself.

    Raises OptionError, naming the extraction to run, where none has.
    """
    try:
        select_tokens(cache, head="attentive", layers=layers, tokens=spatial)
    except OptionError:
        root = cache.path.parents[2]
        others = [
            c
            for c in find_caches(root, cache.spec.model, cache.spec.dataset.name)
            if _kind(c) == _kind(cache)
        ]
        serving = [c for c in others if _serves(c, ["attentive"], [layers], [spatial])]
        if not serving:
            raise
        return min(serving, key=_size)
    return None


def _serves(
    cache: Cache, head: Sequence[str], layers: Sequence[str] | None, tokens: Sequence[str] | None
) -> bool:
    try:
        for word, layer, token in product(head, layers or [None], tokens or [None]):  # type: ignore[list-item]
            # what a hybrid head sees besides its spatial tokens, which may lie elsewhere, is what an attentive one sees
            select_tokens(
                cache, head="attentive" if word == "hybrid" else word, layers=layer, tokens=token
            )
    except (OptionError, UnknownNameError):
        return False
    return True


def _kind(cache: Cache) -> str:
    """A digest of all that determines a stored number, but not which numbers are stored."""
    value = cache.spec.to_json()
    for name in ("layers", "tokens"):
        del value[name]
    return sha256_json(value)


def _size(cache: Cache) -> tuple[int, str]:
    return len(cache.spec.layers) * len(cache.spec.tokens), cache.spec.fingerprint
