"""Looking after caches: check every byte, describe, delete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from layercache.cache.find import OTHER_OPTIONS, Cache, extract_command, load_cache
from layercache.cache.format.layout import SPEC_KEY, SplitLayout, cache_folder, spec_bytes
from layercache.cache.format.records import BlockRecord, CompleteRecord
from layercache.cache.format.shard import crc32c
from layercache.cache.storage.base import FileInfo, Store, open_store
from layercache.cache.storage.paths import CachePath
from layercache.cache.storage.threads import in_threads
from layercache.errors import CacheCorruptError


@dataclass(frozen=True, order=True)
class Corruption:
    """What is wrong with one file of a cache."""

    path: CachePath
    what: str
    """One line: what was expected, what is there."""

    @property
    def there(self) -> bool:
        """Whether the file is there, so that it must go before it is made again."""
        return (
            self.path.is_file()
            if isinstance(self.path, Path)
            else open_store(self.path.parent).size(self.path.name) is not None
        )


def verify(
    cache: Cache | CachePath, *, progress: Callable[[int], None] | None = None
) -> list[Corruption]:
    """Read every byte of every split that was begun; the faults, sorted by file, or an empty list.

    Found are: changed, missing, cut, lengthened and unknown files, and splits that are not complete. progress: called with a number of bytes,
    from several threads, as they are checked. Raises CacheNotFoundError if a path is no cache.
    """
    if not isinstance(cache, Cache):
        try:
            return verify(load_cache(cache), progress=progress)
        except CacheCorruptError as e:
            return [Corruption(cache / SPEC_KEY, str(e))]
    store = cache.store
    faults = (
        []
        if store.read(SPEC_KEY) == spec_bytes(cache.spec)
        else [Corruption(store.path(SPEC_KEY), "not as it was written")]
    )
    for split in cache.spec.dataset.splits:
        layout = SplitLayout(cache.spec, split)
        if store.has_folder(layout.group) or store.has_folder(layout.commits):
            faults += _verify_split(cache, layout, store, progress or (lambda _: None))
    if not cache.splits:
        faults.append(
            Corruption(
                cache.path, f"holds no split; begin with: {extract_command(cache)} {OTHER_OPTIONS}"
            )
        )
    return sorted(faults, key=lambda fault: (str(fault.path), fault.what))


def describe(cache: Cache) -> dict[str, Any]:
    """What a person needs to know of a cache: where, of what, how large, which splits and how complete. Plain JSON values.

    Raises CacheCorruptError if a complete record or the ids cannot be read.
    """
    spec, there = (
        cache.spec,
        cache.store.entries("."),
    )  # one list tells all but what the complete records say
    splits = {}
    for name in spec.dataset.splits:
        layout = SplitLayout(spec, name)
        if not (
            any(key.startswith(f"{layout.group}/") for key in there)
            or (isinstance(cache.path, Path) and cache.store.has_folder(layout.group))
        ):
            continue
        split = cache.split(name) if layout.complete in there else None
        splits[name] = {
            "rows": layout.rows,
            "skipped": split.skipped if split else {},
            "codec": split.codec if split else None,
            "blocks": layout.blocks,
            "blocks_done": sum(layout.record(b) in there for b in range(layout.blocks)),
            "complete": split is not None,
            "bytes": sum(
                e.size
                for key, e in there.items()
                if key.startswith((f"{layout.group}/", f"{layout.commits}/"))
            ),
        }
    return {
        "path": str(cache.path),
        "fingerprint": spec.fingerprint,
        "model": spec.model,
        "architecture": spec.architecture,
        "weights": spec.weights,
        "dataset": spec.dataset.name,
        "classes": len(spec.dataset.classes),
        "limit": spec.dataset.limit,
        "limit_seed": spec.dataset.limit_seed,
        "tap": spec.tap,
        "layers": list(spec.layers),
        "tokens": list(spec.tokens),
        "projected": spec.projected,
        "width": spec.width,
        "precision": spec.precision,
        "store_dtype": spec.store_dtype,
        "preprocessing": dict(spec.preprocessing),
        "splits": splits,
        "bytes": sum(entry.size for entry in there.values()),
    }


def describe_all(folders: Sequence[CachePath]) -> list[dict[str, Any] | CacheCorruptError]:
    """`describe` of each, or what is wrong with it; several at a time where they lie on object storage."""
    found: dict[CachePath, dict[str, Any] | CacheCorruptError] = {}

    def one(folder: CachePath) -> None:
        try:
            found[folder] = describe(load_cache(folder))
        except CacheCorruptError as e:
            found[folder] = e

    in_threads(one, folders, threads=open_store(folders[0]).requests if folders else 1)
    return [found[folder] for folder in folders]


def remove(cache: Cache) -> None:
    """Delete a cache with everything in it, also the probes kept there.

    Raises CacheBusyError while a split is being written in a folder; on object storage nothing says whether one is.
    """
    store = cache.store
    with ExitStack() as locks:
        for split in cache.spec.dataset.splits:
            locks.enter_context(store.lock(SplitLayout(cache.spec, split).lock))
        store.delete(SPEC_KEY)  # first: what is half deleted is no cache
        store.delete_tree()
    if isinstance(cache.path, Path) and cache.path == cache_folder(
        cache.path.parents[2], cache.spec
    ):
        for folder in cache.path.parents[:2]:
            if any(folder.iterdir()):
                break
            folder.rmdir()


def _verify_split(
    cache: Cache, layout: SplitLayout, store: Store, progress: Callable[[int], None]
) -> list[Corruption]:
    faults = []
    known = {layout.complete} | {
        key for b in range(layout.blocks) for key in (layout.shard(b), layout.record(b))
    }
    complete: CompleteRecord | None = None
    there = store.entries(layout.group) | store.entries(layout.commits)
    if layout.complete not in there:
        done, blocks = cache.progress(layout.split)
        faults.append(
            Corruption(
                store.path(layout.complete),
                f"incomplete: {done} of {blocks} row blocks; continue with: {extract_command(cache)} {OTHER_OPTIONS}",
            )
        )
        known |= {
            key for key in there if key.startswith(f"{layout.group}/")
        }  # nothing says yet what these should be
        records = store.read_many(
            key for key in there if key in known and key.startswith(f"{layout.commits}/")
        )
    else:
        try:
            complete = CompleteRecord.from_bytes(
                store.read(layout.complete), where=str(store.path(layout.complete))
            )
            cache.split(layout.split)
        except CacheCorruptError as e:
            return [Corruption(store.path(layout.complete), str(e))]
        records = store.read_many(complete.files)
        for key, expected in complete.files.items():
            if key not in records:
                faults.append(Corruption(store.path(key), "is missing"))
            elif sha256(records[key]).hexdigest() != expected:
                faults.append(
                    Corruption(store.path(key), "SHA-256 is not the one of the complete record")
                )
        known |= set(complete.files)
    faults += [
        Corruption(store.path(key), "does not belong here") for key in there if key not in known
    ]

    def check(block: int) -> list[Corruption]:
        data = records.get(layout.record(block))
        if data is None:
            return []  # of a complete split: already listed; of another: a block still to come
        return _verify_block(
            layout,
            store,
            block,
            data,
            there.get(layout.shard(block)),
            complete is not None,
            progress,
        )

    with ThreadPoolExecutor(store.threads(layout.blocks * layout.shard_bytes)) as pool:
        for found in pool.map(check, range(layout.blocks)):
            faults += found
    return faults


def _verify_block(
    layout: SplitLayout,
    store: Store,
    block: int,
    data: bytes,
    entry: FileInfo | None,
    complete: bool,
    progress: Callable[[int], None],
) -> list[Corruption]:
    """data: of the block's record; entry: of its shard."""
    key, shard = layout.record(block), store.path(layout.shard(block))
    try:
        record = BlockRecord.from_bytes(data, where=str(store.path(key)))
    except CacheCorruptError as e:
        return [] if complete else [Corruption(store.path(key), str(e))]
    if (record.fingerprint, record.split, record.block) != (
        layout.spec.fingerprint,
        layout.split,
        block,
    ):
        return [
            Corruption(
                store.path(key),
                f"belongs to another cache, split or block ({record.fingerprint[:12]}, {record.split!r}, {record.block})",
            )
        ]
    size = entry.size if entry else None
    if size is None or size != record.bytes:
        return [
            Corruption(
                shard,
                "is missing" if size is None else f"has {size} bytes, expected {record.bytes}",
            )
        ]
    crc, piece = 0, np.empty(store.batch_bytes, np.uint8)
    with store.open(layout.shard(block)) as file:
        for offset in range(0, size, len(piece)):
            part = piece[: min(len(piece), size - offset)]
            file.read_into(offset, [part])
            crc = crc32c(part, crc)
            progress(part.nbytes)
    if f"{crc:08x}" != record.crc32c:
        return [Corruption(shard, f"crc32c is {crc:08x}, expected {record.crc32c}")]
    return []
