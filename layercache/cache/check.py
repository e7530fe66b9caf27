"""Looking after caches: check every byte, describe, delete."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from layercache.cache.layout import SPEC_KEY, SplitLayout, cache_folder, spec_bytes
from layercache.cache.reader import OTHER_OPTIONS, Cache, extract_command, load_cache
from layercache.cache.records import BlockRecord, CompleteRecord
from layercache.cache.shard import crc32c
from layercache.cache.split import MAX_THREADS
from layercache.cache.store import LocalStore
from layercache.errors import CacheCorruptError

_PIECE = 2**20


@dataclass(frozen=True, order=True)
class Fault:
    """What is wrong with one file of a cache."""

    path: Path
    what: str
    """One line: what was expected, what is there."""


def verify(cache: Cache | Path, *, progress: Callable[[int], None] | None = None) -> list[Fault]:
    """Read every byte of every split that was begun; the faults, sorted by file, or an empty list.

    Found are: changed, missing, cut, lengthened and unknown files, and splits that are not complete. progress: called with a number of bytes,
    from several threads, as they are checked. Raises CacheNotFoundError if a path is no cache.
    """
    if isinstance(cache, Path):
        try:
            return verify(load_cache(cache), progress=progress)
        except CacheCorruptError as e:
            return [Fault(cache / SPEC_KEY, str(e))]
    store = LocalStore(cache.path)
    faults = [] if store.read(SPEC_KEY) == spec_bytes(cache.spec) else [Fault(store.path(SPEC_KEY), "not as it was written")]
    for split in cache.spec.dataset.splits:
        layout = SplitLayout(cache.spec, split)
        if store.path(layout.group).is_dir() or store.path(layout.commits).is_dir():
            faults += _verify_split(cache, layout, store, progress or (lambda _: None))
    if not cache.splits:
        faults.append(Fault(cache.path, f"holds no split; begin with: {extract_command(cache)} {OTHER_OPTIONS}"))
    return sorted(faults)


def describe(cache: Cache) -> dict[str, Any]:
    """What a person needs to know of a cache: where, of what, how large, which splits and how complete. Plain JSON values.

    Raises CacheCorruptError if a complete record or the ids cannot be read.
    """
    store, spec = LocalStore(cache.path), cache.spec
    splits = {}
    for name in cache.splits:
        layout = SplitLayout(spec, name)
        done, blocks = cache.progress(name)
        split = cache.split(name) if cache.complete(name) else None
        splits[name] = {
            "rows": layout.rows,
            "skipped": split.skipped if split else {},
            "codec": split.codec if split else None,
            "blocks": blocks,
            "blocks_done": done,
            "complete": split is not None,
            "bytes": sum(store.size(key) or 0 for folder in (layout.group, layout.commits) for key in store.list(folder)),
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
        "bytes": sum(store.size(key) or 0 for key in store.list(".")),
    }


def remove(cache: Cache) -> None:
    """Delete a cache with everything in it, also the probes kept there. Raises CacheBusyError while a split is being written."""
    store = LocalStore(cache.path)
    with ExitStack() as locks:
        for split in cache.spec.dataset.splits:
            locks.enter_context(store.lock(SplitLayout(cache.spec, split).lock))
        store.delete(SPEC_KEY)  # first: what is half deleted is no cache
        shutil.rmtree(cache.path)
    if cache.path == cache_folder(cache.path.parents[2], cache.spec):
        for folder in cache.path.parents[:2]:
            if any(folder.iterdir()):
                break
            folder.rmdir()


def _verify_split(cache: Cache, layout: SplitLayout, store: LocalStore, progress: Callable[[int], None]) -> list[Fault]:
    faults = []
    known = {layout.complete} | {key for b in range(layout.blocks) for key in (layout.shard(b), layout.record(b))}
    complete: CompleteRecord | None = None
    if store.size(layout.complete) is None:
        done, blocks = cache.progress(layout.split)
        faults.append(
            Fault(store.path(layout.complete), f"incomplete: {done} of {blocks} row blocks; continue with: {extract_command(cache)} {OTHER_OPTIONS}")
        )
        known |= set(store.list(layout.group))  # nothing says yet what these should be
    else:
        try:
            complete = CompleteRecord.from_bytes(store.read(layout.complete), where=str(store.path(layout.complete)))
            cache.split(layout.split)
        except CacheCorruptError as e:
            return [Fault(store.path(layout.complete), str(e))]
        for key, expected in complete.files.items():
            if store.size(key) is None:
                faults.append(Fault(store.path(key), "is missing"))
            elif sha256(store.read(key)).hexdigest() != expected:
                faults.append(Fault(store.path(key), "SHA-256 is not the one of the complete record"))
        known |= set(complete.files)
    faults += [Fault(store.path(k), "does not belong here") for f in (layout.group, layout.commits) for k in store.list(f) if k not in known]
    with ThreadPoolExecutor(MAX_THREADS) as pool:
        for found in pool.map(lambda b: _verify_block(layout, store, b, complete is not None, progress), range(layout.blocks)):
            faults += found
    return faults


def _verify_block(layout: SplitLayout, store: LocalStore, block: int, complete: bool, progress: Callable[[int], None]) -> list[Fault]:
    key, shard = layout.record(block), store.path(layout.shard(block))
    if store.size(key) is None:
        return []  # of a complete split: already listed; of another: a block still to come
    try:
        record = BlockRecord.from_bytes(store.read(key), where=str(store.path(key)))
    except CacheCorruptError as e:
        return [] if complete else [Fault(store.path(key), str(e))]
    if (record.fingerprint, record.split, record.block) != (layout.spec.fingerprint, layout.split, block):
        return [Fault(store.path(key), f"belongs to another cache, split or block ({record.fingerprint[:12]}, {record.split!r}, {record.block})")]
    size = store.size(layout.shard(block))
    if size != record.bytes:
        return [Fault(shard, "is missing" if size is None else f"has {size} bytes, expected {record.bytes}")]
    crc, piece = 0, np.empty(_PIECE, np.uint8)
    with store.open(layout.shard(block)) as file:
        for offset in range(0, size, _PIECE):
            part = piece[: min(_PIECE, size - offset)]
            file.read_into(offset, [part])
            crc = crc32c(part, crc)
            progress(part.nbytes)
    if f"{crc:08x}" != record.crc32c:
        return [Fault(shard, f"crc32c is {crc:08x}, expected {record.crc32c}")]
    return []
