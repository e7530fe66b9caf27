"""Finds the cache that a probe reads if several match.

Caches that differ only in the layers and tokens that they store hold the same numbers, and those
that differ in the codec as well hold numbers of the same meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from layercache.cache.cache import Cache
from layercache.cache.find import find_caches, matching_caches, open_cache
from layercache.cache.format.cache_spec import sha256_json
from layercache.cache.storage.paths import CachePath, cache_root
from layercache.errors import CacheAmbiguousError, OptionError, UnknownNameError
from layercache.probing.heads.spec import SPATIAL_HEADS
from layercache.probing.token_selection import select_tokens


def find_cache_for_heads(
    *,
    root: str | CachePath | None = None,
    model: str | None = None,
    dataset: str | None = None,
    fingerprint: str | None = None,
    head: Sequence[str],
    layers: Sequence[str] | None = None,
    tokens: Sequence[str] | None = None,
) -> Cache:
    """Return the matching cache; of several, the smallest one with all tokens that the heads need.

    Args:
        root: Folder or address of the caches; None: the default one.
        model: Name of the model.
        dataset: Name of the dataset.
        fingerprint: Beginning of the fingerprint.
        head: Names of the heads.
        layers: Layer choices; None: the heads' default.
        tokens: Token kinds; None: the heads' default.

    Raises:
        CacheNotFoundError: No cache matches.
        CacheAmbiguousError: Matching caches differ in more than their layers and tokens (weights,
            samples, preprocessing, ...), or none has the tokens, or several have them stored in
            different ways.
    """
    caches = matching_caches(
        cache_root(root), model=model, dataset=dataset, fingerprint=fingerprint
    )
    if len(caches) > 1 and len({_content_digest(cache) for cache in caches}) == 1:
        sufficient = [cache for cache in caches if _has_tokens(cache, head, layers, tokens)]
        if sufficient:
            return _smallest(sufficient, option="fingerprint")
    return open_cache(root=root, model=model, dataset=dataset, fingerprint=fingerprint)


def find_spatial_cache(cache: Cache, *, spatial: str, layers: str) -> Cache | None:
    """Return another cache with the spatial tokens; None if `cache` itself stores them.

    The other cache has the same weights, images and options, and is below the same root.

    Args:
        cache: Cache of the other tokens.
        spatial: Kind of the spatial tokens.
        layers: Layers of the spatial tokens.

    Raises:
        OptionError: No cache stores them; the message gives the extraction to run.
        CacheAmbiguousError: Several caches have them stored in different ways.
    """
    try:
        select_tokens(cache, head="attentive", layers=layers, tokens=spatial)
    except OptionError:
        root = cache.path.parents[2]
        sufficient = [
            other
            for other in find_caches(root, cache.spec.model, cache.spec.dataset.name)
            if _content_digest(other) == _content_digest(cache)
            and _has_tokens(other, ["attentive"], [layers], [spatial])
        ]
        if not sufficient:
            raise
        return _smallest(sufficient, option="spatial_cache")
    return None


def _has_tokens(
    cache: Cache, head: Sequence[str], layers: Sequence[str] | None, tokens: Sequence[str] | None
) -> bool:
    layer_choices: Sequence[str | None] = layers or [None]
    kind_choices: Sequence[str | None] = tokens or [None]
    try:
        for name, layer, kinds in product(head, layer_choices, kind_choices):
            # the spatial tokens of a head may be in another cache; the rest is as attentive
            name = "attentive" if name in SPATIAL_HEADS else name
            select_tokens(cache, head=name, layers=layer, tokens=kinds)
    except (OptionError, UnknownNameError):
        return False
    return True


def _content_digest(cache: Cache) -> str:
    """Return a digest of all that determines a token, without which ones are stored, and how."""
    spec = cache.spec.to_json()
    for name in ("layers", "tokens", "codec", "schema"):
        spec.pop(name, None)
    return sha256_json(spec)


def _smallest(caches: Sequence[Cache], *, option: str) -> Cache:
    """Return the cache with the fewest tokens; they must all be stored in one way."""
    if len({cache.spec.codec for cache in caches}) > 1:
        lines = "\n".join(f"  {c.path}: {c.spec.codec or c.spec.storage_dtype}" for c in caches)
        raise CacheAmbiguousError(
            f"{len(caches)} caches have the tokens, stored in different ways; choose one by "
            f"{option}:\n{lines}"
        )
    return min(caches, key=_size)


def _size(cache: Cache) -> tuple[int, str]:
    return len(cache.spec.layers) * len(cache.spec.tokens), cache.spec.fingerprint
