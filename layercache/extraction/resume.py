"""Detection of the work that an interrupted or damaged extraction has to redo.

`is_complete` decides for a whole split: one that is not complete is opened for writing, and
`SplitWriter.pending` of the cache then names its row blocks that are not committed. Committed row
blocks are never computed again, nor are the rows of a block that were saved before it was full.
"""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from layercache.cache.find import open_cache
from layercache.cache.format.cache_spec import CacheSpec
from layercache.cache.format.layout import SplitLayout
from layercache.cache.format.records import CompleteRecord
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import CachePath
from layercache.cache.writing.block_writer import parse_record
from layercache.cache.writing.partial_block import read_partials
from layercache.cache.writing.split_writer import SplitWriter
from layercache.errors import CacheBusyError, CacheError, StorageError
from layercache.extraction.datasets.base import Samples


def is_complete(path: CachePath, spec: CacheSpec, split: str) -> bool:
    """Return whether nothing of a split has to be written.

    It needs its complete record, shards of the recorded length, and every other file with the
    recorded digest: lost or damaged files are written again.

    Args:
        path: Folder of the cache.
        spec: Spec of the cache.
        split: Name of the split.
    """
    store, layout = open_store(path), SplitLayout(spec, split)
    try:
        open_cache(path).split(split)
        data = store.read(layout.complete)
        complete = CompleteRecord.of_split(data, layout, where=layout.complete)
    except StorageError:
        raise
    except CacheError:
        return False  # absent, begun or damaged
    files = store.read_many(complete.files)
    for key, digest in complete.files.items():
        if key not in files or sha256(files[key]).hexdigest() != digest:
            return False
    shards = store.list_files(layout.tokens)
    return all(
        parse_record(
            layout, block, files.get(layout.record(block)), shards.get(layout.shard(block))
        )
        for block in range(layout.blocks)
    )


def has_leftovers(path: CachePath, spec: CacheSpec, split: str) -> bool:
    """Return whether a complete split's writer was killed after its last commit.

    Its temporary files and its name in the lock are then still there.
    """
    if not isinstance(path, Path):
        return False
    layout = SplitLayout(spec, split)
    lock = path / layout.lock
    return (lock.exists() and lock.stat().st_size > 0) or (path / layout.partial).exists()


def remove_leftovers(root: CachePath, spec: CacheSpec, split: str, samples: Samples) -> None:
    """Remove what `has_leftovers` found, by opening the split for writing, unless it is locked."""
    with (
        suppress(CacheBusyError, StorageError),
        SplitWriter(root, spec, split, ids=samples.ids),
    ):
        pass


def saved_rows(path: CachePath, spec: CacheSpec, split: str) -> int:
    """Return the rows that are saved of blocks which are not full; see `BlockWriter`."""
    if not isinstance(path, Path):
        return 0
    layout = SplitLayout(spec, split)
    partials = read_partials(open_store(path), layout, range(layout.blocks))
    return sum(partial.rows for partial in partials.values())


def size_on_disk(path: CachePath, spec: CacheSpec, split: str) -> int:
    """Return the bytes of the files of one split's Zarr group."""
    files = open_store(path).list_files(SplitLayout(spec, split).group)
    return sum(info.size for info in files.values())
