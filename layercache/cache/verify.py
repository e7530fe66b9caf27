"""Checking every byte of a cache against its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from layercache.cache.annotations.column import FOLDER, REANNOTATE_HINT, column_key, is_digest
from layercache.cache.annotations.index import INDEX, LOCK, read_column, read_index
from layercache.cache.cache import Cache, extract_advice, load_cache
from layercache.cache.format import result_folders
from layercache.cache.format.crc32c import crc32c
from layercache.cache.format.layout import SPEC_KEY, SplitLayout, spec_bytes
from layercache.cache.format.origin import ORIGINS, Origin
from layercache.cache.format.records import BlockRecord, CompleteRecord
from layercache.cache.format.result_folders import scan
from layercache.cache.storage.base import FileInfo, Store
from layercache.cache.storage.paths import CachePath
from layercache.cache.storage.threads import map_threads
from layercache.errors import CacheCorruptError, ProbeSchemaError


@dataclass(frozen=True, order=True)
class Corruption:
    """A file of a cache that is not as it was written."""

    path: CachePath
    problem: str
    """One line: what was expected, what was found."""
    exists: bool = True
    """False if the file is missing, so that nothing need be deleted before it is written again."""
    probe: bool = False
    """It belongs to a probe, which no extraction writes again; `problem` names what does."""


def verify(
    cache: Cache | CachePath, *, progress: Callable[[int], None] | None = None
) -> list[Corruption]:
    """Read every byte of every split that was begun, and of every probe.

    Probes that another version of layercache wrote cannot be checked; a warning names them.

    Args:
        cache: A cache, its folder or its address.
        progress: Called with a number of bytes, from several threads, when they have been checked.

    Returns:
        Changed, missing, cut, lengthened and unknown files, and splits that are not complete,
        sorted by path; empty if all is well.

    Raises:
        CacheNotFoundError: The path is not a cache.
        CacheSchemaError: The cache was written with another schema.
    """
    if not isinstance(cache, Cache):
        try:
            return verify(load_cache(cache), progress=progress)
        except CacheCorruptError as e:
            return [Corruption(cache / SPEC_KEY, str(e))]
    store = cache.store
    corruptions = []
    if store.read(SPEC_KEY) != spec_bytes(cache.spec):
        corruptions.append(Corruption(store.path(SPEC_KEY), "is not as it was written"))
    for key, data in store.read_many(store.list_files(ORIGINS)).items():
        try:
            Origin.from_bytes(data, where=str(store.path(key)))
        except CacheCorruptError as e:
            corruptions.append(Corruption(store.path(key), str(e)))
    corruptions += _verify_annotations(store)
    for split in cache.spec.dataset.splits:
        layout = SplitLayout(cache.spec, split)
        if store.has_dir(layout.group) or store.has_dir(layout.commits):
            corruptions += _SplitCheck(cache, layout, progress or (lambda _: None)).run()
    if not cache.splits:
        problem = f"holds no split; begin with: {extract_advice(cache)}"
        corruptions.append(Corruption(cache.path, problem, exists=False))
    corruptions += verify_probes(cache, progress=progress)
    return sorted(corruptions, key=lambda c: (str(c.path), c.problem))


def _verify_annotations(store: Store) -> Iterator[Corruption]:
    """Yield every file of the annotations that is not as it was written, or does not belong."""
    infos = store.list_files(FOLDER)
    try:
        listed = set(read_index(store).files)
    except CacheCorruptError as e:
        yield Corruption(store.path(INDEX), str(e))
        listed = set()
    if INDEX not in infos and any(key.endswith(".npz") for key in infos):
        yield Corruption(store.path(INDEX), f"is missing; {REANNOTATE_HINT}", exists=False)
    for key in sorted(listed - set(infos)):
        yield Corruption(store.path(key), f"is missing; {REANNOTATE_HINT}", exists=False)
    for key, info in infos.items():
        digest = key.removeprefix(f"{FOLDER}/").removesuffix(".npz")
        if key in (INDEX, LOCK) or key.startswith(f"{FOLDER}/partial/"):
            continue
        if not info.regular:
            yield Corruption(store.path(key), "is a pipe or device, expected a regular file")
        elif key != column_key(digest) or not is_digest(digest):
            yield Corruption(store.path(key), "does not belong here")
        else:
            try:
                read_column(store, digest)
            except CacheCorruptError as e:
                yield Corruption(store.path(key), str(e))


def verify_probes(
    cache: Cache,
    store: Store | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Corruption]:
    """Yield every file of a probe that is not as it was written, but for unfinished ones.

    Args:
        cache: The cache that the probes were trained on.
        store: Folder that holds the folder of the probes; default: the cache's.
        progress: As in `verify`.
    """
    store = store or cache.store
    progress = progress or (lambda _: None)
    found = scan(store, result_folders.PARENT, fingerprint=cache.spec.fingerprint)
    found.warn_outdated()
    for name, problem in found.damaged.items():
        path = store.path(f"{result_folders.PARENT}/{name}/{result_folders.RECORD}")
        yield Corruption(path, problem, probe=True)
    for name in store.list_dirs(result_folders.PARENT):
        folder = f"{result_folders.PARENT}/{name}"
        try:
            result_folders.read_state(store, folder)
        except CacheCorruptError as e:
            yield Corruption(store.path(f"{folder}/{result_folders.STATE}"), str(e), probe=True)
        except ProbeSchemaError:
            pass  # a search that starts again
        for key in store.list_files(f"{folder}/{result_folders.PASSES}"):
            is_temporary = "/" in key.removeprefix(f"{folder}/{result_folders.PASSES}/")
            if not is_temporary and not result_folders.is_whole_pass(store.read(key)):
                problem = "does not match its own checksum: remove the file"
                yield Corruption(store.path(key), problem, probe=True)
        if (record := found.records.get(name)) is None:
            if name not in found.damaged and name not in found.outdated:
                yield from _check_unfinished(store, folder)
            continue
        for file, digest in record.files.items():
            try:
                progress(len(result_folders.read_file(store, file, digest, folder=folder)))
            except CacheCorruptError as e:
                yield Corruption(store.path(f"{folder}/{file}"), str(e), probe=True)
        for key in store.list_files(folder):
            if not result_folders.belongs(key.removeprefix(f"{folder}/"), record):
                yield Corruption(store.path(key), "does not belong here", probe=True)


def _check_unfinished(store: Store, folder: str) -> Iterator[Corruption]:
    """Yield the record of a probe if it is missing: a search would have left its state."""
    names = {key.removeprefix(f"{folder}/") for key in store.list_files(folder)}
    if result_folders.STATE not in names and any(
        "/" not in name for name in names - {result_folders.LOCK}
    ):
        path = store.path(f"{folder}/{result_folders.RECORD}")
        problem = f"is missing: {result_folders.RETRAIN_HINT.format(folder=path.parent)}"
        yield Corruption(path, problem, exists=False, probe=True)


class _SplitCheck:
    """The check of one split."""

    def __init__(self, cache: Cache, layout: SplitLayout, progress: Callable[[int], None]) -> None:
        self._cache, self._layout, self._progress = cache, layout, progress
        self._store: Store = cache.store
        files = self._store.list_files(layout.group) | self._store.list_files(layout.commits)
        self._irregular = [key for key, info in files.items() if not info.regular]
        self._files = {key: info for key, info in files.items() if info.regular}
        self._complete: CompleteRecord | None = None
        self._records: dict[str, bytes] = {}
        """Contents of the block records; of a complete split, of all right files but the shards."""

    def run(self) -> list[Corruption]:
        """Return every file of the split that is not as it was written."""
        layout = self._layout
        known = {key for key in self._files if layout.block_of(key) is not None}
        known.add(layout.complete)
        if layout.complete in self._files:
            try:
                data = self._store.read(layout.complete)
                where = str(self._store.path(layout.complete))
                self._complete = CompleteRecord.of_split(data, layout, where=where)
                self._cache.split(layout.split)
            except CacheCorruptError as e:
                return [Corruption(self._store.path(layout.complete), str(e))]
            corruptions = list(self._check_small_files(self._complete))
            known |= set(self._complete.files)
        else:
            corruptions = [self._incomplete()]
            # no record tells yet what the files of the group should be
            known |= {key for key in self._files if key.startswith(f"{layout.group}/")}
            prefix = f"{layout.commits}/"
            keys = [key for key in self._files if key in known and key.startswith(prefix)]
            self._records = self._store.read_many(keys)
        corruptions += [
            Corruption(self._store.path(key), "does not belong here")
            for key in self._files
            if key not in known
        ]
        corruptions += [
            Corruption(self._store.path(key), "is a pipe or device, expected a regular file")
            for key in self._irregular
        ]
        found = {layout.block_of(key) for key in self._records}
        blocks = sorted(block for block in found if block is not None)
        threads = self._store.threads(layout.blocks * layout.shard_bytes)
        return corruptions + [
            c for c in map_threads(self._check_block, blocks, threads=threads) if c
        ]

    def _incomplete(self) -> Corruption:
        n_committed, n_blocks = self._cache.progress(self._layout.split)
        return Corruption(
            self._store.path(self._layout.complete),
            f"incomplete: {n_committed} of {n_blocks} row blocks; continue with: "
            f"{extract_advice(self._cache)}",
            exists=False,
        )

    def _check_small_files(self, complete: CompleteRecord) -> Iterator[Corruption]:
        """Compare all files but the shards with the digests of the complete record."""
        regular = [key for key in complete.files if key not in self._irregular]
        self._records = self._store.read_many(regular)
        for key in regular:
            path = self._store.path(key)
            if key not in self._records:
                yield Corruption(path, "is missing", exists=False)
            elif sha256(self._records[key]).hexdigest() != complete.files[key]:
                yield Corruption(path, "SHA-256 is not the one of the complete record")
                del self._records[key]

    def _check_block(self, block: int) -> Corruption | None:
        layout = self._layout
        key = layout.record(block)
        path = self._store.path(key)
        try:
            record = BlockRecord.of_block(self._records[key], layout, block, where=str(path))
        except CacheCorruptError as e:
            return Corruption(path, str(e))
        return self._check_shard(layout.shard(block), record)

    def _check_shard(self, key: str, record: BlockRecord) -> Corruption | None:
        path = self._store.path(key)
        info: FileInfo | None = self._files.get(key)
        if info is None:
            return Corruption(path, "is missing", exists=False)
        if info.size != record.bytes:
            return Corruption(path, f"has {info.size} bytes, expected {record.bytes}")
        crc = 0
        buffer = np.empty(self._store.batch_bytes, np.uint8)
        with self._store.open(key) as file:
            for offset in range(0, info.size, len(buffer)):
                part = buffer[: min(len(buffer), info.size - offset)]
                file.read_into(offset, [part])
                crc = crc32c(part, crc)
                self._progress(part.nbytes)
        if f"{crc:08x}" != record.crc32c:
            return Corruption(path, f"crc32c is {crc:08x}, expected {record.crc32c}")
        return None
