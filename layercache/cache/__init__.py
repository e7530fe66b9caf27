"""The cache on disk: the contract between extraction and probing. Knows numpy, zarr and json; no model, no image."""

from layercache.cache.find import Cache, Split, cache_root, find_caches, open_cache
from layercache.cache.format.layout import block_rows, cache_folder, planned_bytes
from layercache.cache.format.selection import resolve_layers, resolve_tokens, select
from layercache.cache.format.spec import (
    CacheSpec,
    DatasetIdentity,
    SplitIdentity,
    digest_ids,
    digest_labels,
)
from layercache.cache.writing.split_writer import SplitWriter

__all__ = [
    "Cache",
    "CacheSpec",
    "DatasetIdentity",
    "Split",
    "SplitIdentity",
    "SplitWriter",
    "block_rows",
    "cache_folder",
    "cache_root",
    "digest_ids",
    "digest_labels",
    "find_caches",
    "open_cache",
    "planned_bytes",
    "resolve_layers",
    "resolve_tokens",
    "select",
]
