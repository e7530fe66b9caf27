"""Copying a cache from one place to another: a folder, object storage, the Hugging Face Hub. Whole, verified on arrival, resumable.

Order: the spec; of each split the shards, then records, labels, ids and metadata, then the complete record; last the probes, each with its record
last. So at every moment the target is what a stopped extraction leaves: incomplete, or true. Every file is compared with its checksum when it
is read (crc32c of the block's record, SHA-256 of the complete record) and read back where it arrived. What is there and has its checksum is not
sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock

from layercache.cache.find import Cache, load_cache
from layercache.cache.format.layout import SPEC_KEY, SplitLayout, cache_folder, spec_bytes
from layercache.cache.format.records import REMEDY, BlockRecord, CompleteRecord
from layercache.cache.format.shard import crc32c
from layercache.cache.hub import HubStore
from layercache.cache.storage.base import FileInfo, Store, open_store
from layercache.cache.storage.paths import CachePath, as_place
from layercache.cache.storage.threads import in_threads
from layercache.errors import (
    CacheBusyError,
    CacheCorruptError,
    CacheIncompleteError,
    OptionError,
    StorageError,
)

PROBES = "probes/"
_LAST = "probe.json"
_OWN = ("search.json", ".lock")
"""Files of a probe that is still being trained."""
BATCH_FILES = 64
BATCH_BYTES = 2**29
"""Of one commit on the Hub."""

Check = Callable[[bytes], bool]
"""Whether these are the bytes that a file must have."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A cache that was copied."""

    source: CachePath
    path: CachePath
    """Where it lies now: TO/<dataset>/<model>/<fingerprint>."""
    files: int
    bytes: int
    """Of all its files."""
    sent_files: int
    sent_bytes: int
    """Of those that were not there yet."""


def copy_cache(
    source: Cache | str | CachePath,
    *,
    to: str | CachePath,
    progress: Callable[[int], None] | None = None,
    total: Callable[[int], None] | None = None,
) -> Transfer:
    """Copy a cache with its probes below another root, where it gets the folder of its data set, model and fingerprint.

    source: a cache, its folder or address. to: a folder, s3://BUCKET/PREFIX or hf://datasets/USER/NAME. total: told all bytes, once; progress: told
    bytes as they are dealt with, from several threads. A copy that was stopped continues when it is called again.

    Raises CacheIncompleteError (a split of the source is not complete), CacheCorruptError (a file of the source is not what its record says),
    OptionError (the target is the source, or another cache lies there), CacheBusyError (the target is being written), StorageError.
    """
    cache = source if isinstance(source, Cache) else load_cache(as_place(source))
    root = as_place(to)
    path = cache_folder(root, cache.spec)
    if path == cache.path:
        raise OptionError(f"{path}: the cache lies there already; give another root")
    splits = cache.splits
    for split in splits:
        if not cache.complete(split):
            done, blocks = cache.progress(split)
            raise CacheIncompleteError(
                f"{cache.path}: split {split!r} is incomplete ({done} of {blocks} row blocks): finish the extraction, then copy"
            )
    target = open_store(path)
    layouts = [SplitLayout(cache.spec, split) for split in splits]
    sizes = cache.store.entries(".")
    keys = [key for key in sizes if _belongs(key, layouts)]
    if total:
        total(sum(sizes[key].size for key in keys))
    copy = _Copy(cache.store, target, sizes, progress or (lambda _: None))
    with ExitStack() as locks:
        for layout in layouts:
            locks.enter_context(target.lock(layout.lock))
        copy.look(cache)
        spec = spec_bytes(cache.spec)
        copy.send({SPEC_KEY: lambda data: data == spec})
        for layout in layouts:
            for stage in _stages(cache.store, layout):
                copy.send(stage)
        for stage in _probe_stages(keys):
            copy.send(stage)
    return Transfer(
        source=cache.path,
        path=path,
        files=copy.files,
        bytes=copy.bytes,
        sent_files=copy.sent_files,
        sent_bytes=copy.sent_bytes,
    )


def _belongs(key: str, layouts: Sequence[SplitLayout]) -> bool:
    if key.startswith(PROBES):
        return key.rpartition("/")[2] not in _OWN and "/partial" not in key
    return key == SPEC_KEY or any(
        key.startswith((f"{layout.group}/", f"{layout.commits}/")) for layout in layouts
    )


def _stages(store: Store, layout: SplitLayout) -> Iterator[Mapping[str, Check | None]]:
    """The files of a split in the order in which they may appear, each with what its bytes must be."""
    data = store.read(layout.complete)
    complete = CompleteRecord.from_bytes(data, where=str(store.path(layout.complete)))
    if complete.fingerprint != layout.spec.fingerprint:
        raise CacheCorruptError(
            f"{store.path(layout.complete)}: belongs to another cache; {REMEDY}"
        )
    records = store.read_many(layout.record(block) for block in range(layout.blocks))
    shards: dict[str, Check | None] = {}
    for block in range(layout.blocks):
        key = layout.record(block)
        if key not in records:
            raise CacheCorruptError(f"{store.path(key)} is missing; {REMEDY}")
        record = BlockRecord.from_bytes(records[key], where=str(store.path(key)))
        shards[layout.shard(block)] = _crc(record.crc32c)
    yield shards
    yield {key: _digest(digest) for key, digest in complete.files.items() if key != SPEC_KEY}
    yield {layout.complete: lambda found: found == data}


def _probe_stages(keys: Sequence[str]) -> Iterator[Mapping[str, Check | None]]:
    """The files of complete probes; their records say nothing of their bytes, so the source's are believed in."""
    whole = {
        key.rpartition("/")[0]
        for key in keys
        if key.startswith(PROBES) and key.endswith(f"/{_LAST}")
    }
    mine = [key for key in keys if key.rpartition("/")[0] in whole]
    yield {key: None for key in mine if not key.endswith(f"/{_LAST}")}
    yield {key: None for key in mine if key.endswith(f"/{_LAST}")}


def _crc(expected: str) -> Check:
    return lambda data: f"{crc32c(data):08x}" == expected


def _digest(expected: str) -> Check:
    return lambda data: sha256(data).hexdigest() == expected


class _Copy:
    """From one store to another, stage by stage."""

    def __init__(
        self,
        source: Store,
        target: Store,
        sizes: Mapping[str, FileInfo],
        progress: Callable[[int], None],
    ) -> None:
        self._source, self._target, self._sizes, self._progress = source, target, sizes, progress
        self._there = target.entries(".")
        self._lock = Lock()
        self.files = self.bytes = self.sent_files = self.sent_bytes = 0

    def look(self, cache: Cache) -> None:
        """Raises OptionError or CacheBusyError if what is at the target is not a part of this cache."""
        target, source = self._target, self._source
        if SPEC_KEY in self._there and target.read(SPEC_KEY) != spec_bytes(cache.spec):
            raise OptionError(
                f"{target.root}: another cache lies there, or its spec is damaged: look at it (layercache cache info), or remove it"
            )
        records = [
            key
            for key in self._there
            if key.startswith("commits/")
            and key.endswith(".json")
            and not key.endswith("/complete.json")
        ]
        mine, theirs = source.read_many(records), target.read_many(records)
        for key in records:
            if mine.get(key) != theirs[key]:
                raise CacheBusyError(
                    f"{target.path(key)}: an extraction wrote row blocks there whose bytes are not those of {source.root}: let it finish, or remove "
                    "that cache (layercache cache rm) and copy again"
                )

    def send(self, stage: Mapping[str, Check | None]) -> None:
        """Copy what is not there and right; every file of the stage is there and right when this returns."""
        keys = list(stage)
        if isinstance(self._target, HubStore):
            self._commit(self._target, stage)
            return
        in_threads(
            lambda key: self._one(key, stage[key]),
            keys,
            threads=max(self._source.uploads, self._target.uploads),
        )

    def _one(self, key: str, check: Check | None) -> None:
        data = None if check else self._read(key, check)
        there = self._there.get(key)
        if there and there.size == self._sizes[key].size and self._arrived(key, check, data):
            self._count(key, sent=False)
            return
        data = data or self._read(key, check)
        self._target.put(key, [data])
        if not self._arrived(key, check, data):
            raise StorageError(
                f"{self._target.path(key)}: did not arrive as it was sent; run the same command again"
            )
        self._count(key, sent=True)

    def _arrived(self, key: str, check: Check | None, data: bytes | None) -> bool:
        try:
            found = self._target.read(key)
        except FileNotFoundError:
            return False
        return check(found) if check else found == data

    def _commit(self, hub: HubStore, stage: Mapping[str, Check | None]) -> None:
        batch: dict[str, bytes] = {}
        for key, check in stage.items():
            data = self._read(key, check)
            if hub.holds(self._there.get(key), data):
                self._count(key, sent=False)
                continue
            batch[key] = data
            if len(batch) == BATCH_FILES or sum(map(len, batch.values())) >= BATCH_BYTES:
                self._commit_batch(hub, batch)
                batch = {}
        if batch:
            self._commit_batch(hub, batch)

    def _commit_batch(self, hub: HubStore, batch: Mapping[str, bytes]) -> None:
        hub.put_all(batch, message=f"layercache: {len(batch)} files of {self._source.root.name}")
        self._there = hub.entries(".")
        for key, data in batch.items():
            if not hub.holds(self._there.get(key), data):
                raise StorageError(
                    f"{hub.path(key)}: did not arrive as it was sent; run the same command again"
                )
            self._count(key, sent=True)

    def _read(self, key: str, check: Check | None) -> bytes:
        try:
            data = self._source.read(key)
        except FileNotFoundError:
            raise CacheCorruptError(f"{self._source.path(key)} is missing; {REMEDY}") from None
        if check and not check(data):
            raise CacheCorruptError(f"{self._source.path(key)}: not what its record says; {REMEDY}")
        return data

    def _count(self, key: str, *, sent: bool) -> None:
        size = self._sizes[key].size
        with self._lock:
            self.files, self.bytes = self.files + 1, self.bytes + size
            if sent:
                self.sent_files, self.sent_bytes = self.sent_files + 1, self.sent_bytes + size
        self._progress(size)
