"""Finds the test sets of a request: splits of the probe's cache, and caches of other datasets."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from layercache.cache.cache import Cache
from layercache.cache.find import find_caches, open_cache
from layercache.cache.format.layout import SPEC_KEY
from layercache.cache.storage.open import open_source
from layercache.cache.storage.paths import CachePath, as_cache_path
from layercache.errors import CacheNotFoundError, HeadMismatchError, OptionError
from layercache.probing.splits.test_sets import TestSet

logger = logging.getLogger(__name__)

MUST_AGREE = ("weights", "tap", "projected", "preprocessing", "depth", "width")
"""Fields of a spec in which the cache of another test set must agree with that of the probe."""
SHOULD_AGREE = ("precision", "storage_dtype")
"""Fields of a spec in which it may differ, which changes tokens by rounding."""
SPLIT_MARK = "@"
"""Separates a cache from its split, as in "imagenet_v2@val"."""


def choose_tests(
    cache: Cache,
    *,
    test_split: str | Sequence[str],
    test_cache: Cache | str | CachePath | Sequence[Cache | str | CachePath] = (),
) -> tuple[str, tuple[TestSet, ...]]:
    """Return the first test split, and the further test sets, each once.

    Args:
        cache: Cache of the probes.
        test_split: One or several splits of it.
        test_cache: Caches of other datasets of the same backbone: opened, as a folder, or as a
            dataset's name or source; a text may end in "@SPLIT". The split is "test" by default, or
            the only one.

    Raises:
        OptionError: No test split is given, or a cache has no split "test".
        HeadMismatchError: A cache was not extracted as the probe's.
        CacheNotFoundError: There is no such cache.
    """
    splits = [test_split] if isinstance(test_split, str) else list(dict.fromkeys(test_split))
    if not splits:
        raise OptionError("test_split: expected at least one split, got none")
    others = [test_cache] if isinstance(test_cache, Cache | str | CachePath) else test_cache
    tests = [TestSet(name=name, split=name) for name in splits[1:]]
    for given in others:
        other, split = _open(cache, given)
        if other.path == cache.path:
            tests.append(TestSet(name=split, split=split))
            continue
        check_same_encoder(cache, other)
        tests.append(TestSet(name=_name(other, split), split=split, cache=other))
    return splits[0], _unique(tests, first=splits[0])


def check_same_encoder(cache: Cache, other: Cache) -> None:
    """Raise HeadMismatchError unless two caches hold tokens of one backbone, made in one way."""
    differing = [n for n in MUST_AGREE if getattr(cache.spec, n) != getattr(other.spec, n)]
    if differing:
        raise HeadMismatchError(
            f"test_cache: expected a cache of the same {', '.join(differing)} as {cache.path}, got "
            f"{other.path}: extract the test set with the model and options of the other"
        )
    for name in SHOULD_AGREE:
        ours, theirs = getattr(cache.spec, name), getattr(other.spec, name)
        if ours != theirs:
            logger.info("test_cache %s: its %s is %s, not %s", other.path, name, theirs, ours)


def _open(cache: Cache, given: Cache | str | CachePath) -> tuple[Cache, str]:
    """Return an opened cache and its test split."""
    split = ""
    if isinstance(given, str) and SPLIT_MARK in given and not _is_cache(given):
        given, _, split = given.rpartition(SPLIT_MARK)
    if not isinstance(given, Cache):
        given = open_cache(given) if _is_cache(given) else _find(cache, str(given))
    if split:
        return given, split
    splits = tuple(given.spec.dataset.splits)
    if "test" in splits:
        return given, "test"
    if len(splits) == 1:
        return given, splits[0]
    raise OptionError(
        f"test_cache: {given.path} has no split 'test', but {', '.join(splits)}: name one, as in "
        f"{given.spec.dataset.name}{SPLIT_MARK}{splits[-1]}"
    )


def _is_cache(path: str | CachePath) -> bool:
    if isinstance(path, str) and path.partition(":")[0] in ("folder", "wds", "hf", "csv"):
        return False
    return open_source(as_cache_path(path)).stat(SPEC_KEY) is not None


def _find(cache: Cache, dataset: str) -> Cache:
    """Return the cache of a dataset below the same root that was extracted as `cache` was."""
    root = cache.path.parents[2]
    caches = find_caches(root, cache.spec.model, dataset)
    matching = []
    for other in caches:
        if all(getattr(cache.spec, n) == getattr(other.spec, n) for n in MUST_AGREE):
            matching.append(other)
    if not matching:
        found = f", but {len(caches)} extracted in another way" if caches else ""
        raise CacheNotFoundError(
            f"test_cache: {dataset!r} is no folder of a cache, and below {root} there is no cache "
            f"of {cache.spec.model} on it{found}: extract it with the options of {cache.path}"
        )
    return max(matching, key=lambda other: other.begun_at)


def _name(cache: Cache, split: str) -> str:
    name = cache.spec.dataset.name
    return name if split == "test" else f"{name}/{split}"


def _unique(tests: Sequence[TestSet], *, first: str) -> tuple[TestSet, ...]:
    """Return each test set once; equal names of different ones get the cache's fingerprint."""
    unique: dict[str, TestSet] = {}
    for test in tests:
        path = None if test.cache is None else test.cache.path
        known = unique.get(test.name)
        name = test.name
        if test.cache is not None and (
            name == first or (known is not None and (not known.cache or known.cache.path != path))
        ):
            name = f"{name}-{test.cache.spec.fingerprint[:6]}"
        if name != first:
            unique.setdefault(name, TestSet(name=name, split=test.split, cache=test.cache))
    return tuple(unique.values())
