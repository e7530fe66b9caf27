"""Description of a cache: its path, what determined its bytes, its size, how complete it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from layercache.cache.annotations.changes import compare
from layercache.cache.cache import Cache, load_cache
from layercache.cache.format.layout import SplitLayout
from layercache.cache.storage.base import FileInfo
from layercache.cache.storage.open import open_source
from layercache.cache.storage.paths import CachePath
from layercache.cache.storage.threads import map_threads
from layercache.errors import CacheCorruptError, CacheSchemaError


def describe(cache: Cache) -> dict[str, Any]:
    """Return path, spec, size and splits of a cache as plain JSON values.

    Raises:
        CacheCorruptError: A complete record or the ids cannot be read.
    """
    spec = cache.spec
    files = cache.files.list_files(".")  # one list tells all but what the complete records say
    return {
        "path": str(cache.path),
        "fingerprint": spec.fingerprint,
        "model": spec.model,
        "architecture": spec.architecture,
        "weights": spec.weights,
        "dataset": spec.dataset.name,
        "origins": [asdict(origin) for origin in cache.origins],
        "classes": cache.annotation_index.n_classes,
        "annotations": {
            name: asdict(version) for name, version in cache.annotation_index.columns.items()
        },
        "limit": spec.dataset.limit,
        "limit_seed": spec.dataset.limit_seed,
        "tap": spec.tap,
        "layers": list(spec.layers),
        "tokens": list(spec.tokens),
        "projected": spec.projected,
        "width": spec.width,
        "precision": spec.precision,
        "storage_dtype": spec.storage_dtype,
        "codec": spec.codec,
        "codes_per_image": len(spec.layers) * len(spec.tokens) * spec.code_width,
        "bytes_per_image": len(spec.layers) * len(spec.tokens) * spec.token_bytes,
        "preprocessing": dict(spec.preprocessing),
        "splits": {
            name: _describe_split(cache, SplitLayout(spec, name), files)
            for name in spec.dataset.splits
            if _has_begun(cache, SplitLayout(spec, name), files)
        },
        "bytes": sum(info.size for info in files.values()),
    }


def _has_begun(cache: Cache, layout: SplitLayout, files: dict[str, FileInfo]) -> bool:
    is_empty_folder = isinstance(cache.path, Path) and cache.files.has_dir(layout.group)
    return is_empty_folder or any(key.startswith(f"{layout.group}/") for key in files)


def _describe_split(
    cache: Cache, layout: SplitLayout, files: dict[str, FileInfo]
) -> dict[str, Any]:
    split = cache.split(layout.split) if layout.complete in files else None
    prefixes = (f"{layout.group}/", f"{layout.commits}/")
    return {
        "rows": layout.rows,
        "skipped": split.skipped if split else {},
        "compressor": split.compressor if split else None,
        "saturated": split.saturated if split else None,
        "blocks": layout.blocks,
        "blocks_done": sum(
            key.startswith(prefixes[1]) and layout.block_of(key) is not None for key in files
        ),
        "complete": split is not None,
        "bytes": sum(info.size for key, info in files.items() if key.startswith(prefixes)),
    }


def describe_all(
    folders: Sequence[CachePath],
) -> list[dict[str, Any] | CacheCorruptError | CacheSchemaError]:
    """Return `describe` of each folder, or why it cannot be read.

    On object storage, several are read at a time.
    """

    def describe_one(folder: CachePath) -> dict[str, Any] | CacheCorruptError | CacheSchemaError:
        try:
            return describe(load_cache(folder))
        except (CacheCorruptError, CacheSchemaError) as e:
            return e

    threads = open_source(folders[0]).requests if folders else 1
    return map_threads(describe_one, folders, threads=threads)


def describe_annotations(cache: Cache) -> list[str]:
    """Return a line for each annotation of a cache: kind, number of values, version."""
    kept = {name: cache.split(name).kept_rows for name in cache.splits if cache.complete(name)}
    return [
        compare(column, None, kept=kept).describe() for column in cache.annotation_columns.values()
    ]
