"""Row blocks in, committed blocks on disk: what was committed survives a kill at any moment, and the next run continues there.

Per block: the shard and its record to temporary files, fsync; then the shard is renamed into place, then the record; fsync of both folders. A row
exists only if its record does, and a shard of the length that the record says: a power cut that keeps the second rename but not the first leaves a
record without a shard, whose block is then done again. The complete record is written when every block is durable.

On object storage nobody holds a lock: `claim` says why two writers of one split end with one cache that both agree on.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from hashlib import sha256
from types import TracebackType
from typing import Any, Self

import numpy as np

from layercache.cache.format.layout import SPEC_KEY, SplitLayout, cache_folder, spec_bytes
from layercache.cache.format.records import REMEDY, BlockRecord, CompleteRecord
from layercache.cache.format.shard import metadata_codec
from layercache.cache.format.spec import CacheSpec, digest_ids, digest_labels
from layercache.cache.format.zarr_group import group_digests, valid_bytes, write_group
from layercache.cache.storage.local import LocalStore
from layercache.cache.storage.paths import CachePath
from layercache.cache.storage.s3 import ObjectStore
from layercache.cache.storage.threads import in_threads
from layercache.cache.writing.block_writer import BlockWriter
from layercache.cache.writing.conditional_commit import settle
from layercache.errors import CacheCorruptError, CacheIncompleteError, OptionError

Array = np.ndarray[Any, np.dtype[Any]]


class SplitWriter:
    """Writes one split of a cache. Holds the split's lock, where there are locks, from construction to `close` (or the end of the `with`)."""

    rows: int
    """N, skipped rows included."""
    block_rows: int
    """R: block b holds the rows b R to min((b + 1) R, N)."""
    path: CachePath
    """The cache's folder."""

    def __init__(
        self,
        root: CachePath,
        spec: CacheSpec,
        split: str,
        *,
        ids: list[str],
        labels: Array,
        codec: str | None = None,
        wait: bool = False,
    ) -> None:
        """Begin the split, or continue it: `pending` says which blocks are left.

        ids: N names in order; labels: int64 (N,) or uint8 (N, C); both must have the digests that the spec gives. codec: None (plain bytes),
        "zstd[:LEVEL]" or "blosc[:LEVEL]"; not part of the fingerprint, since the tokens are the same. wait: wait for another writer to end.

        Raises OptionError (ids, labels or codec do not fit), CacheBusyError (another process writes the split and `wait` is False),
        CacheCorruptError (what is there contradicts the spec), StorageError (disk full or read-only).
        """
        self._layout = layout = SplitLayout(spec, split)
        identity = spec.dataset.splits[split]
        if len(ids) != identity.rows or digest_ids(ids) != identity.ids:
            raise OptionError(
                f"split {split!r}: these {len(ids)} ids are not the {identity.rows} that the spec of the cache was made from"
            )
        if len(labels) != identity.rows or digest_labels(labels) != identity.labels:
            raise OptionError(
                f"split {split!r}: these labels ({labels.dtype} {labels.shape}) are not those that the spec was made from"
            )
        if not ids:
            raise OptionError(f"split {split!r} has no samples: there is nothing to cache")
        self.path = cache_folder(root, spec)
        self.rows, self.block_rows = layout.rows, layout.block_rows
        self._ids = ids
        self._blocks = BlockWriter(root, spec, split, ids=ids, codec=codec)
        self._codec, self._store = self._blocks.codec, self._blocks.store
        self._mutex = threading.Lock()
        self._committed: dict[int, BlockRecord] = {}
        self._writing: set[int] = set()
        self._closed = False
        with ExitStack() as stack:
            stack.enter_context(self._store.lock(layout.lock, wait=wait))
            stack.callback(self._store.sweep)
            self._begin(labels)
            self._exit = stack.pop_all()

    @property
    def pending(self) -> tuple[int, ...]:
        """The blocks that have no record yet."""
        return tuple(b for b in range(self._layout.blocks) if b not in self._committed)

    @property
    def complete(self) -> bool:
        """The split's complete record is there."""
        return self._store.size(self._layout.complete) is not None

    def write(
        self, block: int, tokens_ltnd: Array, *, skipped: Mapping[int, str] | None = None
    ) -> BlockRecord:
        """Commit one row block; when this returns, it survives a power cut. Safe to call from several threads for different blocks.

        tokens_ltnd: (L, T, n, D) in the store dtype, n the rows of this block. skipped: row number of the split -> why it has no token; what
        `tokens_ltnd` holds there is replaced by NaN, so that every other row stays where its sample is.

        Raises NonFiniteError, OptionError (wrong shape, dtype or block), StorageError. Nothing is committed then.
        """
        self._check_open()
        with self._mutex:
            if block in self._committed or block in self._writing:
                raise OptionError(
                    f"row block {block} of split {self._layout.split!r} is already written"
                )
            self._writing.add(block)
        try:
            record = self._blocks.write(block, tokens_ltnd, skipped=skipped)
            with self._mutex:
                self._committed[block] = record
            return record
        finally:
            with self._mutex:
                self._writing.discard(block)

    def adopt(self, block: int, record: BlockRecord | None = None) -> None:
        """Count a block as committed that a `BlockWriter` has committed under this writer's lock.

        Args:
            block: Number of the row block.
            record: What `BlockWriter.write` or `BlockWriter.committed` returned for it: trusted, nothing is read. Without it, the record
                and the length of the shard are read from the store.

        Raises:
            CacheIncompleteError: The block is not committed.
        """
        self._check_open()
        record = record or self._blocks.record(block)
        if record is None:
            raise CacheIncompleteError(
                f"{self.path}: row block {block} of split {self._layout.split!r} was said to be written and is not there"
            )
        with self._mutex:
            self._committed[block] = record

    def finish(self) -> None:
        """Write the split's complete record. Raises CacheIncompleteError while blocks are pending; does nothing if it is complete."""
        self._check_open()
        layout = self._layout
        if self.pending:
            raise CacheIncompleteError(
                f"{self.path}: split {layout.split!r} has {len(self.pending)} of {layout.blocks} row blocks still to write"
            )
        if isinstance(self._store, ObjectStore):
            self._committed = settle(self._store, layout, self._committed, codec=self._codec)
        elif self.complete:
            return
        records = [self._committed[b] for b in range(layout.blocks)]
        skipped = {row: why for record in records for row, why in record.skipped.items()}
        valid = valid_bytes(layout.rows, [int(r) for r in skipped])
        if self._store.read_many([layout.valid]).get(layout.valid) != valid:
            self._store.put(layout.valid, [valid])
        complete = CompleteRecord(
            fingerprint=layout.spec.fingerprint,
            split=layout.split,
            rows=layout.rows,
            blocks=layout.blocks,
            block_rows=layout.block_rows,
            codec=self._codec.text if self._codec else None,
            files=self._digests(),
            skipped=skipped,
        )
        if self._store.read_many([layout.complete]).get(layout.complete) != complete.to_bytes():
            self._store.put(layout.complete, [complete.to_bytes()])

    def close(self) -> None:
        """Give up the lock and remove temporary files. What was committed stays; nothing can be written any more."""
        self._closed = True
        self._exit.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self, labels: Array) -> None:
        layout, store = self._layout, self._store
        store.sweep()
        if not store.create(SPEC_KEY, [spec_bytes(layout.spec)]) and store.read(
            SPEC_KEY
        ) != spec_bytes(layout.spec):
            raise CacheCorruptError(
                f"{store.path(SPEC_KEY)} is not the spec of this extraction; {REMEDY}"
            )
        if isinstance(store, ObjectStore):
            store.require_conditions(SPEC_KEY, [spec_bytes(layout.spec)])
        self._committed = self._find_committed()
        if (
            self.pending and self.complete
        ):  # a list takes a while: what another writer has just completed is not to be called untrue
            self._committed = self._find_committed()
        told = store.read_many([layout.complete])
        if self._whole(told.get(layout.complete)):
            return
        if (
            told
        ):  # only what was seen to be untrue: another writer may put the true one at any moment
            store.delete(layout.complete)
        self._write_group(labels)
        if isinstance(store, LocalStore):
            for block in (
                self.pending
            ):  # no old shard must be there for a new record to be taken for its own
                store.delete(layout.record(block))
                store.delete(layout.shard(block))
            store.sync_folders([layout.group + "/tokens", layout.commits])

    def _whole(self, data: bytes | None) -> bool:
        """Whether these are the bytes of a complete record, and every file but the shards is what it says."""
        if self.pending or data is None:
            return False
        try:
            complete = CompleteRecord.from_bytes(data, where=self._layout.complete)
        except CacheCorruptError:
            return False
        return (
            complete.fingerprint == self._layout.spec.fingerprint
            and complete.files == self._digests()
        )

    def _write_group(self, labels: Array) -> None:
        """Make the group, or make its files what they should be: labels, ids and metadata follow from the spec and the arguments."""
        layout, store = self._layout, self._store
        folder, metadata = store.path(layout.group), f"{layout.group}/tokens/zarr.json"
        # where no lock keeps others out, they may be about to commit the first block
        if (there := store.read_many([metadata])) and (
            self._committed or not isinstance(store, LocalStore)
        ):
            codec = metadata_codec(there[metadata], where=str(store.path(metadata)))
            if codec != (self._codec.metadata(layout.dtype.itemsize) if self._codec else None):
                asked = self._codec.text if self._codec else "none"
                raise OptionError(
                    f"{folder}: begun with codec {codec}, not {asked}: continue with that one, or remove it (layercache cache rm)"
                )
        with store.scratch_folder() as scratch:
            fresh = scratch / "group"
            write_group(fresh, layout, ids=self._ids, labels=labels, codec=self._codec)
            if store.move_in(fresh, layout.group):
                return
            files = {
                f"{layout.group}/{p.relative_to(fresh).as_posix()}": p.read_bytes()
                for p in fresh.rglob("*")
                if p.is_file()
            }
        there = store.read_many(files)
        wrong = {key: data for key, data in files.items() if there.get(key) != data}
        if layout.valid in there:
            wrong.pop(layout.valid, None)  # it is `finish` that says which rows are
        if (
            metadata in wrong
            and metadata not in there
            and not store.create(metadata, [wrong.pop(metadata)])
        ):
            self._write_group(labels)  # another writer was faster: perhaps with another codec
            return

        def place(key: str) -> None:
            if key in there:
                store.put(key, [wrong[key]])
            else:
                store.create(key, [wrong[key]])

        in_threads(place, list(wrong), threads=store.requests)

    def _digests(self) -> dict[str, str]:
        """Key -> SHA-256 of every file of the split but the shards and the complete record."""
        layout, store = self._layout, self._store
        files = group_digests(store, layout)
        files[SPEC_KEY] = sha256(store.read(SPEC_KEY)).hexdigest()
        return files | {
            layout.record(b): sha256(r.to_bytes()).hexdigest()
            for b, r in sorted(self._committed.items())
        }

    def _find_committed(self) -> dict[int, BlockRecord]:
        """Return the records of all committed blocks of the split."""
        records = self._store.entries(self._layout.commits)
        blocks = range(self._layout.blocks)
        return self._blocks.committed([b for b in blocks if self._layout.record(b) in records])

    def _check_open(self) -> None:
        if self._closed:
            raise OptionError(
                f"{self.path}: the writer of split {self._layout.split!r} is closed; its lock may be another's by now"
            )
