"""Lookup of caches: all below a root, those that match a request, or the only one."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from layercache.cache.cache import Cache, load_cache
from layercache.cache.format.layout import SPEC_KEY, safe_name
from layercache.cache.storage.open import open_source
from layercache.cache.storage.paths import CachePath, RemotePath, as_cache_path, cache_root
from layercache.cache.storage.threads import map_threads
from layercache.errors import (
    CacheAmbiguousError,
    CacheCorruptError,
    CacheNotFoundError,
    CacheSchemaError,
)

logger = logging.getLogger(__name__)

Unusable = CacheSchemaError | CacheCorruptError
"""Why a cache cannot be opened."""

MAX_VALUE_CHARS = 60
"""Length at which a value is cut in the list of caches that an ambiguous request matches."""


def cache_folders(
    root: CachePath, *, model: str | None = None, dataset: str | None = None
) -> list[CachePath]:
    """Return the folders of the caches below a root, sorted.

    Only folders are listed, level by level, never row blocks.
    """
    if isinstance(root, Path):
        pattern = f"{_glob(dataset)}/{_glob(model)}/*/{SPEC_KEY}"
        return list[CachePath](sorted(p.parent for p in root.glob(pattern)))
    return sorted(_remote_folders(root, model=model, dataset=dataset), key=str)


def _remote_folders(
    root: RemotePath, *, model: str | None, dataset: str | None
) -> list[RemotePath]:
    source = open_source(root)
    keys = [""]
    for name in (dataset, model, None):
        if name is not None:
            keys = [f"{key}{safe_name(name)}/" for key in keys]
        else:
            names = map_threads(
                lambda key: source.list_dirs(key.rstrip("/") or "."), keys, threads=source.requests
            )
            keys = [
                f"{key}{name}/" for key, below in zip(keys, names, strict=True) for name in below
            ]
    specs = source.read_many(f"{key}{SPEC_KEY}" for key in keys)
    return [root / key.rpartition("/")[0] for key in specs]


def find_caches(
    root: CachePath, model: str | None = None, dataset: str | None = None
) -> list[Cache]:
    """Open all caches below a root, or those of a model or dataset.

    Caches of another schema, and those whose spec is damaged, are skipped and logged.
    """
    caches, unusable = _load_all(root, model=model, dataset=dataset)
    _log_skipped(unusable)
    return caches


def matching_caches(
    root: CachePath,
    *,
    model: str | None = None,
    dataset: str | None = None,
    fingerprint: str | None = None,
) -> list[Cache]:
    """Return the caches that match; `fingerprint` gives the first digits of theirs.

    A cache into which a failed extraction committed nothing counts only if no other one matches.
    Caches of another schema, and those whose spec is damaged, are skipped and logged.
    """
    caches, unusable = _load_all(root, model=model, dataset=dataset, fingerprint=fingerprint)
    _log_skipped(unusable)
    return _prefer_begun(caches)


def _load_all(
    root: CachePath, *, model: str | None, dataset: str | None, fingerprint: str | None = None
) -> tuple[list[Cache], list[Unusable]]:
    """Return the caches that match, and an error for each that cannot be opened."""

    def load(folder: CachePath) -> Cache | Unusable:
        try:
            return load_cache(folder)
        except (CacheSchemaError, CacheCorruptError) as error:
            return error

    folders = cache_folders(root, model=model, dataset=dataset)
    loaded = map_threads(load, folders, threads=open_source(root).requests)
    prefix = fingerprint or ""
    return (
        [c for c in loaded if isinstance(c, Cache) and c.spec.fingerprint.startswith(prefix)],
        [
            error
            for folder, error in zip(folders, loaded, strict=True)
            if isinstance(error, Unusable) and folder.name.startswith(prefix[:12])
        ],
    )


def _log_skipped(unusable: Sequence[Unusable]) -> None:
    for error in unusable:
        logger.warning("skipped %s", error)


def _prefer_begun(caches: list[Cache]) -> list[Cache]:
    return ([c for c in caches if c.begun] or caches) if len(caches) > 1 else caches


def open_cache(
    path: str | CachePath | None = None,
    *,
    root: str | CachePath | None = None,
    model: str | None = None,
    dataset: str | None = None,
    fingerprint: str | None = None,
) -> Cache:
    """Open the cache in a folder, or the only one that matches among those below a root.

    Args:
        path: Folder or address of one cache; the other arguments are then not used.
        root: Root of the caches; default $LAYERCACHE_HOME, else the platform's user cache folder.
        model: Name of its model.
        dataset: Name of its dataset.
        fingerprint: First digits of its fingerprint.

    Returns:
        The cache.

    Raises:
        CacheNotFoundError: None matches.
        CacheAmbiguousError: Several match; the message lists them and how they differ.
        CacheSchemaError: The only ones that match were written with another schema.
        CacheCorruptError: The only one that matches has a damaged spec. Where others match, it is
            skipped and logged.
    """
    if path is not None:
        return load_cache(as_cache_path(path))
    base = cache_root(root)
    caches, unusable = _load_all(base, model=model, dataset=dataset, fingerprint=fingerprint)
    if unusable and not caches:
        raise unusable[0]
    _log_skipped(unusable)
    caches = _prefer_begun(caches)
    if len(caches) == 1:
        return caches[0]
    filters = {"model": model, "dataset": dataset, "fingerprint": fingerprint}
    requested = (
        ", ".join(f"{name} {value!r}" for name, value in filters.items() if value)
        or "any model and dataset"
    )
    if not caches:
        stored = sorted({f"{c.spec.model} on {c.spec.dataset.name}" for c in find_caches(base)})
        raise CacheNotFoundError(
            f"no cache of {requested} below {base}; it holds {', '.join(stored) or 'none'}. "
            "Make one with: layercache extract"
        )
    lines = "\n".join(f"  {cache.path}: {_differences(cache, caches)}" for cache in caches)
    raise CacheAmbiguousError(
        f"{len(caches)} caches below {base} match {requested}; choose one by its path, or by "
        "model, dataset or "
        f"fingerprint:\n{lines}"
    )


def _glob(name: str | None) -> str:
    return "*" if name is None else safe_name(name)


def _differences(cache: Cache, caches: Sequence[Cache]) -> str:
    """Return the values of a cache's spec that not all caches share."""
    specs = [dict(_flatten(other.spec.to_json())) for other in caches]
    differing = [
        f"{key} {_shorten(key, value)}"
        for key, value in _flatten(cache.spec.to_json())
        if not key.startswith("dataset.splits")
        and len({json.dumps(spec.get(key), sort_keys=True) for spec in specs}) > 1
    ]
    return ", ".join(differing) or "the dataset's samples differ"


def _shorten(key: str, value: Any) -> str:
    if key == "weights":
        return str(value)[:12]
    if key == "tokens":
        return "+".join(dict.fromkeys(token.split("/")[0] for token in value))
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + ".."


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested dictionaries."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for name, inner in value.items():
        yield from _flatten(inner, f"{prefix}.{name}" if prefix else name)
