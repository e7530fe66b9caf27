"""The cache on disk: the contract between extraction and probing. Knows numpy, zarr and json; no model, no image."""

from layercache.cache.layout import block_rows, cache_folder, planned_bytes
from layercache.cache.reader import Cache, Split, cache_root, find_caches, open_cache
from layercache.cache.selection import resolve_layers, resolve_tokens, select
from layercache.cache.spec import CacheSpec, DatasetIdentity, SplitIdentity, digest_ids, digest_labels
from layercache.cache.writer import SplitWriter

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
