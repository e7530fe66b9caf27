"""Commits of row blocks by conditional puts, for object stores, which have no locks.

Two extractions of one cache may run at once and write bytes that differ in rounding. A record must
nevertheless always describe the stored shard. These rules ensure it:

1. A shard and a record are put only if absent. Of several writers one succeeds, and the others find
   its shard.
2. A writer that finds a shard describes its bytes (size, every crc32c, the rows without a token)
   and puts that record. An intact shard is never replaced, so the description stays true, and all
   writers would write the same one.
3. A record that is found is adopted if it fits the shard. One that does not fit belongs to a shard
   that was lost or damaged: it is replaced on the condition that it has not changed since (its
   etag), and so is a damaged shard. A writer that loses such a replacement starts again.
4. A writer deletes nothing of a block. A kill between the two puts leaves a shard without a record,
   which rule 2 describes.

The complete record contains the digest of every record and is put last; what it refers to is never
changed again.

This holds if the endpoint checks the condition when the object appears (S3, MinIO, R2, GCS).
OpenStack Swift checks it when the upload begins, so two puts may succeed and the later one stays.
Therefore a writer checks the shard again after both puts, and before the complete record it lists
all objects (`reconcile`) and checks every block again in which it finds other bytes than its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from layercache.cache.format.codecs.token_codec import count_saturated
from layercache.cache.format.compressor import Compressor
from layercache.cache.format.crc32c import crc32c
from layercache.cache.format.layout import CRC_BYTES, SplitLayout, index_bytes
from layercache.cache.format.records import BlockRecord
from layercache.cache.format.zarr_shard import is_missing
from layercache.cache.storage.base import Part
from layercache.cache.storage.s3 import S3Store
from layercache.errors import CacheCorruptError, StorageError

MAX_CAS_RETRIES = 8
"""Conditional puts that may be lost to other writers; each of these has then repaired something."""
UNKNOWN_SKIP_REASON = "the writer whose row block was kept could not decode it"

_checked_buckets: set[str] = set()
"""Buckets whose endpoint refused a second conditional put."""


class ConditionalCommit:
    """Commits the row blocks of a split on object storage by conditional puts."""

    exclusive = False

    def __init__(
        self, store: S3Store, layout: SplitLayout, *, compressor: Compressor | None
    ) -> None:
        self.store = store
        self._layout = layout
        self._compressor = compressor

    def lock(self, *, wait: bool) -> AbstractContextManager[None]:
        """Return an empty context: concurrent writers are harmless (see the module's docstring)."""
        return nullcontext()

    def check_endpoint(self, key: str, data: bytes) -> None:
        """Create `key`, which exists, once per process and bucket.

        Raises StorageError if that succeeds.
        """
        bucket = self.store.root.bucket
        if bucket not in _checked_buckets and self.store.create(key, [data]):
            raise StorageError(
                f"{self.store.path(key)}: the endpoint ignores conditional puts (If-None-Match), "
                "without which two writers could damage a cache: "
                "extract to a folder and copy the cache with `layercache cache push`, or use an "
                "endpoint that has them"
            )
        _checked_buckets.add(bucket)

    @contextmanager
    def scratch_folder(self) -> Iterator[Path]:
        """Make a new folder of this machine for temporary files."""
        with tempfile.TemporaryDirectory(prefix="layercache-") as name:
            yield Path(name)

    def adopt_folder(self, folder: Path, key: str) -> bool:
        """Return False: objects are put one by one."""
        return False

    def discard(self, blocks: Sequence[int]) -> None:
        """Remove nothing: another writer may be about to commit these blocks."""

    def commit(self, record: BlockRecord, parts: Sequence[Part]) -> BlockRecord:
        """Commit a shard and its record, or adopt those that exist.

        Returns the record that is stored. Raises StorageError.
        """
        shard = self._layout.shard(record.block)
        for _ in range(MAX_CAS_RETRIES):
            stored = record
            etag = self.store.put_if_absent(shard, parts)
            if etag is None:
                try:
                    data, etag = self.store.fetch(shard)
                except FileNotFoundError:
                    continue  # removed meanwhile
                described = self._describe(record, data)
                if described:
                    stored = described
                elif (etag := self.store.replace_if_match(shard, parts, etag)) is None:
                    continue
            committed = self._put_record(replace(stored, etags=(etag, "")))
            info = self.store.stat(shard)
            if committed and info and info.etag == etag:
                return committed
        raise StorageError(
            f"{self.store.path(shard)}: other writers changed it {MAX_CAS_RETRIES} times "
            "meanwhile: let one extraction run, or wait for the others, "
            "and run the command again"
        )

    def reconcile(self, records: Mapping[int, BlockRecord]) -> dict[int, BlockRecord]:
        """Return the records that are stored now, also of other writers' bytes.

        Raises StorageError where a shard is no longer whole.
        """
        layout = self._layout
        infos = self.store.list_files(layout.tokens) | self.store.list_files(layout.commits)
        stored = dict(records)
        for block, record in records.items():
            etags = tuple(
                infos[key].etag if key in infos else None
                for key in (layout.shard(block), layout.record(block))
            )
            if etags != record.etags:
                stored[block] = self._check_again(
                    record, shard_unchanged=etags[0] == record.etags[0]
                )
        return stored

    def _check_again(self, record: BlockRecord, *, shard_unchanged: bool) -> BlockRecord:
        """Return the record of a block in which other writers may have changed something."""
        shard = self._layout.shard(record.block)
        for _ in range(MAX_CAS_RETRIES):
            described: BlockRecord | None = record
            if not shard_unchanged:
                data = self.store.read_many([shard]).get(shard)
                described = None if data is None else self._describe(record, data)
            if described and (stored := self._put_record(described)):
                return stored
        raise StorageError(
            f"{self.store.path(shard)}: changed while the split was written: run the same command "
            "again, which writes it again"
        )

    def _put_record(self, record: BlockRecord) -> BlockRecord | None:
        """Put the record of a shard, or return the one that exists if it fits the shard.

        None if other writers were faster.
        """
        key, data = self._layout.record(record.block), [record.to_bytes()]
        etag = self.store.put_if_absent(key, data)
        if etag is None:
            try:
                existing_data, etag = self.store.fetch(key)
            except FileNotFoundError:
                return None
            if existing := _parse_if_same(existing_data, record):
                return replace(existing, etags=(record.etags[0], etag))
            etag = self.store.replace_if_match(key, data, etag)
        return None if etag is None else replace(record, etags=(record.etags[0], etag))

    def _describe(self, record: BlockRecord, data: bytes) -> BlockRecord | None:
        """Return the record of the bytes of a shard, with the skip reasons of `record`.

        None if they are not a whole shard.
        """
        return describe_shard(
            self._layout,
            record.block,
            data,
            compressor=self._compressor,
            skip_reasons=record.skipped,
        )


def describe_shard(
    layout: SplitLayout,
    block: int,
    data: bytes,
    *,
    compressor: Compressor | None,
    skip_reasons: Mapping[str, str],
) -> BlockRecord | None:
    """Return the record of the bytes of a shard, or None if they are not a whole one.

    Args:
        layout: Layout of the split.
        block: Number of the row block.
        data: Bytes of the shard.
        compressor: The one that the split was begun with.
        skip_reasons: Row number -> reason why there is no token, where it is known.
    """
    raw = np.frombuffer(data, np.uint8)
    length = index_bytes(layout.spec)
    if len(raw) < length or (compressor is None and len(raw) != layout.shard_bytes):
        return None
    index = raw[-length:]
    index_crc = crc32c(index[:-CRC_BYTES])
    if index[-CRC_BYTES:].tobytes() != index_crc.to_bytes(CRC_BYTES, "little"):
        return None
    crcs: list[int] = []
    end, saturated = 0, 0
    for offset, size in index[:-CRC_BYTES].copy().view("<u8").reshape(layout.chunks, 2).tolist():
        if offset != end or size < CRC_BYTES or end + size > len(raw) - length:
            return None
        crc = crc32c(raw[end : end + size - CRC_BYTES])
        if raw[end + size - CRC_BYTES : end + size].tobytes() != crc.to_bytes(CRC_BYTES, "little"):
            return None
        crcs.append(crc)
        if layout.dtype == np.int8:
            chunk = raw[end : end + size - CRC_BYTES].tobytes()
            if (codes := _decode(layout, chunk, compressor)) is None:
                return None
            saturated += count_saturated(codes)
        end += size
    first = raw[: index[8:16].copy().view("<u8")[0] - CRC_BYTES].tobytes()
    if end != len(raw) - length or (tokens := _decode(layout, first, compressor)) is None:
        return None
    start, stop = layout.span(block)
    missing = is_missing(tokens[: stop - start], layout.missing).all(axis=1)
    empty = [start + int(n) for n in np.flatnonzero(missing)]
    return BlockRecord(
        fingerprint=layout.spec.fingerprint,
        split=layout.split,
        block=block,
        rows=stop - start,
        bytes=len(raw),
        crc32c=f"{crc32c(raw):08x}",
        index_crc32c=f"{index_crc:08x}",
        chunk_crc32c="".join(f"{c:08x}" for c in crcs),
        skipped={str(row): skip_reasons.get(str(row), UNKNOWN_SKIP_REASON) for row in empty},
        saturated=saturated if layout.dtype == np.int8 else None,
    )


def _decode(
    layout: SplitLayout, chunk: bytes, compressor: Compressor | None
) -> np.ndarray[Any, np.dtype[Any]] | None:
    """Return the tokens (R, D) of an inner chunk, or None if it cannot be decoded."""
    try:
        nbytes = layout.block_rows * layout.row_bytes
        data = compressor.decode(chunk, nbytes=nbytes) if compressor else chunk
        return np.frombuffer(data, layout.dtype).reshape(layout.block_rows, layout.width)
    except (ValueError, RuntimeError):
        return None


def _parse_if_same(data: bytes, record: BlockRecord) -> BlockRecord | None:
    """Return the stored record if it is of the same shard as `record`.

    The skip reasons may differ in words.
    """
    try:
        stored = BlockRecord.from_bytes(data, where="")
    except CacheCorruptError:
        return None
    same_shard = replace(stored, skipped=record.skipped) == record
    return stored if same_shard and set(stored.skipped) == set(record.skipped) else None
