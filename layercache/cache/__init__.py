"""The cache on disk: the contract between extraction and probing.

Depends on numpy, zarr and json; no model, no image.
"""

from layercache.cache.cache import Cache
from layercache.cache.find import find_caches, open_cache
from layercache.cache.format.cache_spec import (
    CacheSpec,
    DatasetIdentity,
    SplitIdentity,
    digest_ids,
)
from layercache.cache.format.layers_and_tokens import parse_layers, parse_tokens, select_pairs
from layercache.cache.format.layout import block_rows, cache_folder, planned_bytes
from layercache.cache.reading.split import Split
from layercache.cache.storage.paths import cache_root
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
    "find_caches",
    "open_cache",
    "parse_layers",
    "parse_tokens",
    "planned_bytes",
    "select_pairs",
]
