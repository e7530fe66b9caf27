"""Lookup of caches: all below a root, those that match a request, or the only one."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from layercache.cache.cache import Cache, load_cache
from layercache.cache.format.layout import SPEC_KEY, safe_name
from layercache.cache.format.origin import (
    dataset_name,
    dataset_source,
    is_missing,
    is_source,
    model_source,
)
from layercache.cache.format.token_names import is_spatial, kind_words
from layercache.cache.origin_records import read_origins
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

    Args:
        root: Root of the caches.
        model: Name of their model.
        dataset: Name of their dataset, or its source as in "folder:PATH": the caches that were
            extracted from there, and those of its name whose source is not recorded (logged).

    Raises:
        CacheNotFoundError: The source does not exist and no cache was extracted from it.
    """
    folders = _named_folders(root, model=model, dataset=dataset)
    if dataset is None or not is_source(dataset):
        return folders
    matching, unknown = _by_source(folders, dataset, root=root, model=model)
    _log_unknown_source(unknown, dataset)
    return sorted({*matching, *unknown}, key=str)


def _named_folders(root: CachePath, *, model: str | None, dataset: str | None) -> list[CachePath]:
    name = None if dataset is None else dataset_name(dataset)
    model = model and model_source(model)
    if isinstance(root, Path):
        pattern = f"{_glob(name)}/{_glob(model)}/*/{SPEC_KEY}"
        return list[CachePath](sorted(p.parent for p in root.glob(pattern)))
    return sorted(_remote_folders(root, model=model, dataset=name), key=str)


def _by_source(
    folders: Sequence[CachePath], dataset: str, *, root: CachePath, model: str | None
) -> tuple[list[CachePath], list[CachePath]]:
    """Return the caches extracted from a dataset's source, and those without a recorded source.

    Args:
        folders: Caches of the dataset's name.
        dataset: The source.
        root: Root of the caches, where the dataset may have another name.
        model: Name of their model, or None.

    Raises:
        CacheNotFoundError: The source does not exist and no cache was extracted from it.
    """
    source = dataset_source(dataset)
    sources = _recorded_sources(folders)
    unknown = [folder for folder in folders if not sources[folder]]
    matching = [folder for folder in folders if source in sources[folder]]
    if matching or not is_source(dataset):
        return matching, unknown
    others = _recorded_sources(
        [f for f in _named_folders(root, model=model, dataset=None) if f not in sources]
    )
    matching = [folder for folder, recorded in others.items() if source in recorded]
    if not matching and is_missing(source):
        same_name = sorted({str(other) for values in sources.values() for other in values})
        hint = ""
        if same_name:
            hint = f"; caches of this name were extracted from {', '.join(same_name)}"
        raise CacheNotFoundError(
            f"dataset {source!r}: there is no such file or folder, and no cache was extracted "
            f"from it{hint}. A cache can be chosen by its dataset's name, too: "
            f"{dataset_name(dataset)}"
        )
    return matching, unknown


def _recorded_sources(folders: Sequence[CachePath]) -> dict[CachePath, set[str | None]]:
    """Return the sources of the dataset that each cache has recorded."""
    threads = open_source(folders[0]).requests if folders else 1
    origins = map_threads(lambda f: read_origins(open_source(f)), folders, threads=threads)
    return {
        folder: {origin.dataset for origin in of_folder} - {None}
        for folder, of_folder in zip(folders, origins, strict=True)
    }


def _log_unknown_source(folders: Sequence[CachePath], dataset: str) -> None:
    for folder in folders:
        logger.warning(
            "%s: its source is not recorded; taken for %s by its dataset's name (to record the "
            "source, run its extraction again)",
            folder,
            dataset_source(dataset),
        )


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
    """Open all caches below a root, or those of a model or dataset; see `cache_folders`.

    Caches of another schema, and those whose spec is damaged, are skipped and logged.

    Raises:
        CacheNotFoundError: The dataset's source does not exist and no cache was extracted from it.
    """
    caches, unusable = _load_all(cache_folders(root, model=model, dataset=dataset))
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

    A cache that is known to be extracted from the requested dataset goes before others of its name.
    A cache into which a failed extraction committed nothing counts only if no other one matches.
    Caches of another schema, and those whose spec is damaged, are skipped and logged.
    """
    folders = _preferred_folders(root, model=model, dataset=dataset, fingerprint=fingerprint)
    caches, unusable = _load_all(folders, fingerprint=fingerprint)
    _log_skipped(unusable)
    return _prefer_begun(caches)


def _preferred_folders(
    root: CachePath, *, model: str | None, dataset: str | None, fingerprint: str | None
) -> list[CachePath]:
    """Return the folders that match; if some are known to be of the dataset, only these."""
    prefix = (fingerprint or "")[:12]
    folders = [
        folder
        for folder in _named_folders(root, model=model, dataset=dataset)
        if folder.name.startswith(prefix)
    ]
    if dataset is None or not (is_source(dataset) or len(folders) > 1):
        return folders
    matching, unknown = _by_source(folders, dataset, root=root, model=model)
    if matching:
        return [folder for folder in matching if folder.name.startswith(prefix)]
    if not is_source(dataset):
        return folders
    _log_unknown_source(unknown, dataset)
    return unknown


def _load_all(
    folders: Sequence[CachePath], *, fingerprint: str | None = None
) -> tuple[list[Cache], list[Unusable]]:
    """Return the caches in these folders, and an error for each that cannot be opened."""

    def load(folder: CachePath) -> Cache | Unusable:
        try:
            return load_cache(folder)
        except (CacheSchemaError, CacheCorruptError) as error:
            return error

    threads = open_source(folders[0]).requests if folders else 1
    loaded = map_threads(load, folders, threads=threads)
    return (
        [
            cache
            for cache in loaded
            if isinstance(cache, Cache) and cache.spec.fingerprint.startswith(fingerprint or "")
        ],
        [error for error in loaded if isinstance(error, Unusable)],
    )


def _log_skipped(unusable: Sequence[Unusable]) -> None:
    for error in unusable:
        logger.warning("skipped %s", error)


def _prefer_begun(caches: list[Cache]) -> list[Cache]:
    return ([c for c in caches if c.begun] or caches) if len(caches) > 1 else caches


def _prefer_pooled(caches: list[Cache]) -> list[Cache]:
    """Return the caches without those of spatial tokens alone, unless there are no others."""
    pooled = [c for c in caches if not all(is_spatial(token) for token in c.spec.tokens)]
    return pooled or caches


def open_cache(
    path: str | CachePath | None = None,
    *,
    root: str | CachePath | None = None,
    model: str | None = None,
    dataset: str | None = None,
    fingerprint: str | None = None,
) -> Cache:
    """Open the cache in a folder, or the only one that matches among those below a root.

    A cache of spatial tokens alone, the second one of an extraction, counts only if no other one
    matches.

    Args:
        path: Folder or address of one cache; the other arguments are then not used.
        root: Root of the caches; default $LAYERCACHE_HOME, else the platform's user cache folder.
        model: Name of its model.
        dataset: Name of its dataset, or its source as in "folder:PATH".
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
    folders = _preferred_folders(base, model=model, dataset=dataset, fingerprint=fingerprint)
    caches, unusable = _load_all(folders, fingerprint=fingerprint)
    if unusable and not caches:
        raise unusable[0]
    _log_skipped(unusable)
    caches = _prefer_pooled(_prefer_begun(caches))
    if len(caches) == 1:
        return caches[0]
    dataset = dataset and dataset_source(dataset)
    filters = {"model": model, "dataset": dataset, "fingerprint": fingerprint}
    requested = (
        ", ".join(f"{name} {value!r}" for name, value in filters.items() if value)
        or "any model and dataset"
    )
    if not caches:
        raise CacheNotFoundError(
            f"no cache of {requested} below {base}; it holds {_describe_stored(base)}. "
            f"Make one with: {make_command(base, model=model, dataset=dataset)}"
        )
    lines = "\n".join(f"  {cache.path}: {_describe(cache, caches)}" for cache in caches)
    raise CacheAmbiguousError(
        f"{len(caches)} caches below {base} match {requested}; choose one by its "
        "fingerprint, whose first digits are the name of its folder, or by model or dataset:\n"
        f"{lines}"
    )


def make_command(root: CachePath, *, model: str | None = None, dataset: str | None = None) -> str:
    """Return the command that makes a cache below a root: of a small example if none is asked."""
    if model is None and dataset is None:
        model, dataset = "vit_nano", "digits"
    source = dataset_source(dataset or "DATASET")
    words = ["--model", model or "MODEL", "--dataset", source]
    if root != cache_root():
        words += ["--cache", str(root)]
    return shlex.join(["layercache", "extract", *words])


def _describe_stored(root: CachePath) -> str:
    stored = {
        f"{cache.spec.model} on {cache.source or cache.spec.dataset.name}"
        for cache in find_caches(root)
    }
    return ", ".join(sorted(stored)) or "none"


def _glob(name: str | None) -> str:
    return "*" if name is None else safe_name(name)


def _describe(cache: Cache, caches: Sequence[Cache]) -> str:
    """Return source and size of a cache's dataset, and the options that not all caches share."""
    dataset = cache.spec.dataset
    rows = " + ".join(f"{split.rows} {name}" for name, split in dataset.splits.items())
    specs = [dict(_flatten(other.spec.to_json())) for other in caches]
    differing = [
        f"{key} {_shorten(key, value)}"
        for key, value in _flatten(cache.spec.to_json())
        if not key.startswith("dataset.splits")
        and len({json.dumps(spec.get(key), sort_keys=True) for spec in specs}) > 1
    ]
    return ", ".join(
        [
            cache.source or "source not recorded",
            f"{cache.annotation_index.n_classes} classes",
            f"{rows} images",
            *differing,
        ]
    )


def _shorten(key: str, value: Any) -> str:
    if key == "weights":
        return str(value)[:12]
    if key == "tokens":
        return "+".join(kind_words(value))
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + ".."


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested dictionaries."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for name, inner in value.items():
        yield from _flatten(inner, f"{prefix}.{name}" if prefix else name)
