"""Writing one split: row blocks in, committed blocks in the cache.

What was committed survives a kill at any moment, and the next run continues there.

In a folder: the shard and its record go to temporary files, which are synced; then the shard is
renamed into place, then the record; then both folders are synced. A row exists only if its record
does, and a shard of the size that the record gives: a power cut that keeps the second rename but
not the first leaves a record without a shard, whose block is then written again. The complete
record is written when every block is durable.

On object storage there is no lock: conditional_commit.py explains why two writers of one split end
with one cache that both agree on.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from hashlib import sha256
from typing import Any, Self

import numpy as np

from layercache.cache.format.cache_spec import CacheSpec, digest_ids
from layercache.cache.format.layout import (
    CODEC_KEY,
    SPEC_KEY,
    SplitLayout,
    cache_folder,
    spec_bytes,
)
from layercache.cache.format.records import REPAIR_HINT, BlockRecord, CompleteRecord
from layercache.cache.format.zarr_metadata import encode_valid
from layercache.cache.storage.paths import CachePath
from layercache.cache.writing.block_writer import BlockWriter
from layercache.cache.writing.partial_block import remove_partials
from layercache.cache.writing.zarr_group_files import write_group_files
from layercache.errors import CacheCorruptError, CacheIncompleteError, OptionError

Array = np.ndarray[Any, np.dtype[Any]]


class SplitWriter:
    """Writes one split of a cache.

    In a folder it holds the split's lock from construction to `close` (or the end of the `with`).
    """

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
        compressor: str | None = None,
        wait: bool = False,
    ) -> None:
        """Begin the split, or continue it: `pending` gives the blocks that are left.

        Args:
            root: Root of all caches.
            spec: The cache's; `ids` must have the digest that it gives.
            split: Name of the split.
            ids: N names in order.
            compressor: None (plain bytes), "zstd[:LEVEL]" or "blosc[:LEVEL]"; not part of the
                fingerprint, since the tokens are the same.
            wait: Wait for another writer to end.

        Raises:
            OptionError: Ids or compressor do not fit.
            CacheBusyError: Another process writes the split and `wait` is False.
            CacheCorruptError: Existing files contradict the spec.
            StorageError: The disk is full or read-only.
        """
        self._layout = layout = SplitLayout(spec, split)
        identity = spec.dataset.splits[split]
        if len(ids) != identity.rows or digest_ids(ids) != identity.ids:
            raise OptionError(
                f"split {split!r}: expected the {identity.rows} ids that the spec of the cache was "
                f"made from, got {len(ids)} others"
            )
        if not ids:
            raise OptionError(f"split {split!r} has no samples: there is nothing to cache")
        self.path = cache_folder(root, spec)
        self.rows, self.block_rows = layout.rows, layout.block_rows
        self._ids = ids
        self._blocks = BlockWriter(root, spec, split, ids=ids, compressor=compressor)
        self._compressor, self._store = self._blocks.compressor, self._blocks.store
        self._commit = self._blocks.commit
        self._mutex = threading.Lock()
        self._committed: dict[int, BlockRecord] = {}
        self._writing: set[int] = set()
        self._closed = False
        with ExitStack() as stack:
            stack.enter_context(self._commit.lock(wait=wait))
            stack.callback(self._store.remove_temporary)
            self._begin()
            self._exit = stack.pop_all()

    @property
    def pending(self) -> tuple[int, ...]:
        """Blocks that have no record yet."""
        return tuple(b for b in range(self._layout.blocks) if b not in self._committed)

    @property
    def complete(self) -> bool:
        """True if the split has its complete record."""
        return self._store.stat(self._layout.complete) is not None

    def write(
        self, block: int, tokens_ltnd: Array, *, skipped: Mapping[int, str] | None = None
    ) -> BlockRecord:
        """Commit one row block; when this returns, it survives a power cut.

        Safe to call from several threads for different blocks.

        Args:
            block: Number of the row block.
            tokens_ltnd: Tokens (L, T, n, D) in the storage dtype, n the rows of this block.
            skipped: Row number of the split -> reason why it has no token; its place in
                `tokens_ltnd` is stored as NaN, so that every other row stays where its sample is.

        Returns:
            The record of what is stored.

        Raises:
            NonFiniteError: A token is NaN or infinite.
            OptionError: Shape, dtype or block is wrong.
            StorageError: The disk is full, or the endpoint fails. Nothing is committed in any of
                these cases.
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
            record: What `BlockWriter.write` or `BlockWriter.committed` returned for it: trusted,
                nothing is read. Without it, the record and the length of the shard are read from
                the store.

        Raises:
            CacheIncompleteError: The block is not committed.
        """
        self._check_open()
        record = record or self._blocks.record(block)
        if record is None:
            raise CacheIncompleteError(
                f"{self.path}: row block {block} of split {self._layout.split!r} was reported as "
                "written and does not exist"
            )
        with self._mutex:
            self._committed[block] = record

    def discard_changed(self, stamps: Array) -> int:
        """Discard the blocks of rows whose source has changed since an earlier writer began.

        The stamps are kept for the next writer, until the split is complete. Does nothing for a
        complete split, and on object storage, where other writers may rely on the blocks.

        Args:
            stamps: int64 (N,): a number per row that changes with its source, such as a
                modification time.

        Returns:
            Number of committed blocks that are pending again.
        """
        self._check_open()
        layout, store = self._layout, self._store
        if not self._commit.exclusive or self.complete:
            return 0
        stored = store.read_many([layout.stamps]).get(layout.stamps)
        discarded: list[int] = []
        if stored is not None and len(stored) == 8 * self.rows:
            changed = np.flatnonzero(np.frombuffer(stored, "<i8") != stamps) // self.block_rows
            remove_partials(store, layout, np.unique(changed).tolist())
            discarded = [block for block in np.unique(changed).tolist() if block in self._committed]
            self._commit.discard(discarded)
            with self._mutex:
                for block in discarded:
                    del self._committed[block]
        store.put(layout.stamps, [stamps.astype("<i8")])
        return len(discarded)

    def finish(self) -> None:
        """Write the split's complete record; does nothing if it exists.

        Raises CacheIncompleteError while blocks are pending.
        """
        self._check_open()
        layout = self._layout
        if self.pending:
            raise CacheIncompleteError(
                f"{self.path}: split {layout.split!r} has {len(self.pending)} of {layout.blocks} "
                "row blocks still to write"
            )
        if self._commit.exclusive and self.complete:
            return
        self._committed = self._commit.reconcile(self._committed)
        self._remove_notes()
        skipped = {
            row: reason
            for block in range(layout.blocks)
            for row, reason in self._committed[block].skipped.items()
        }
        self._put_if_different(layout.valid, encode_valid(layout.rows, map(int, skipped)))
        complete = CompleteRecord(
            fingerprint=layout.spec.fingerprint,
            split=layout.split,
            rows=layout.rows,
            blocks=layout.blocks,
            block_rows=layout.block_rows,
            compressor=self._compressor.text if self._compressor else None,
            files=self._digests(),
            skipped=skipped,
            saturated=self._count_saturated(),
        )
        self._put_if_different(layout.complete, complete.to_bytes())

    def _count_saturated(self) -> int | None:
        counts = [record.saturated for record in self._committed.values()]
        return sum(filter(None, counts)) if None not in counts else None

    def _remove_notes(self) -> None:
        """Remove what is kept only for a writer that continues: stamps, rows of unfinished blocks.

        A writer that was killed after the commit of a block may have left its first rows.
        """
        if self._commit.exclusive:
            remove_partials(self._store, self._layout, list(self._committed))
            self._store.delete(self._layout.stamps)

    def _put_if_different(self, key: str, data: bytes) -> None:
        if self._store.read_many([key]).get(key) != data:
            self._store.put(key, [data])

    def close(self) -> None:
        """Release the lock and remove temporary files.

        What was committed stays; nothing can be written any more.
        """
        self._closed = True
        self._exit.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        layout, store = self._layout, self._store
        spec = spec_bytes(layout.spec)
        store.remove_temporary()
        if not store.create(SPEC_KEY, [spec]) and store.read(SPEC_KEY) != spec:
            raise CacheCorruptError(
                f"{store.path(SPEC_KEY)} is not the spec of this extraction; {REPAIR_HINT}"
            )
        self._commit.check_endpoint(SPEC_KEY, spec)
        self._committed = self._find_committed()
        if self.pending and self.complete:
            # Listing takes a while: a split that another writer has just completed must not be
            # taken for damaged.
            self._committed = self._find_committed()
        complete = store.read_many([layout.complete]).get(layout.complete)
        if complete is not None:
            if self._is_whole(complete):
                return
            store.delete(layout.complete)  # only if untrue: another writer may put the true one
        write_group_files(
            self._commit,
            layout,
            ids=self._ids,
            compressor=self._compressor,
            has_blocks=bool(self._committed),
        )
        self._commit.discard(self.pending)

    def _is_whole(self, data: bytes) -> bool:
        """Return whether these bytes are a complete record that agrees with the small files."""
        if self.pending:
            return False
        try:
            complete = CompleteRecord.of_split(data, self._layout, where=self._layout.complete)
        except CacheCorruptError:
            return False
        return complete.files == self._digests()

    def _digests(self) -> dict[str, str]:
        """Return key -> SHA-256 of every file of the split but shards and complete record."""
        layout, store = self._layout, self._store
        shards = {layout.shard(b) for b in range(layout.blocks)}
        keys = [key for key in store.list_files(layout.group) if key not in shards]
        files = {key: sha256(data).hexdigest() for key, data in store.read_many(keys).items()}
        for key in (SPEC_KEY, CODEC_KEY) if layout.spec.codec else (SPEC_KEY,):
            files[key] = sha256(store.read(key)).hexdigest()
        records = sorted(self._committed.items())
        return files | {layout.record(b): sha256(r.to_bytes()).hexdigest() for b, r in records}

    def _find_committed(self) -> dict[int, BlockRecord]:
        """Return the records of all committed blocks of the split."""
        layout = self._layout
        infos = self._store.list_files(layout.commits)
        blocks = [block for block in range(layout.blocks) if layout.record(block) in infos]
        return self._blocks.committed(blocks, record_infos=infos)

    def _check_open(self) -> None:
        if self._closed:
            raise OptionError(
                f"{self.path}: the writer of split {self._layout.split!r} is closed; another "
                "process may hold its lock by now"
            )
