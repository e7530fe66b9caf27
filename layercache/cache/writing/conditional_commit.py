"""Committing a row block where no lock keeps other writers out: an object store, on which two extractions may run at once.

The two may bring bytes that differ in rounding, so a record must always be that of the shard which is stored, whoever brought it. Why it is:

1. A shard and a record are put with create-only semantics: of several writers one succeeds, the others find what it put.
2. Whoever finds a shard describes the bytes that lie there (length, every crc32c, the rows without a token) and puts that record. A shard that
   is whole in itself is replaced by nobody, so what was described stays true, and all writers would write the same description.
3. A record that is found is adopted if it fits the shard. One that does not is what is left of a shard that was lost or damaged: it is replaced
   on condition that it is still the same (its etag), and so is a shard that is not whole. Who loses such a swap looks again.
4. Nothing of a block is deleted by a writer. A kill between the two puts leaves a shard without a record, which 2 describes.

The complete record names the digest of every record and is put last; what it names is never changed again.

That holds where the condition is checked when the object appears (S3, MinIO, R2, GCS). OpenStack Swift checks it when the upload begins, so that
two may succeed and the later one stays: therefore a writer looks again when both are put, and before the complete record it lists what lies there
(`settle`) and looks again at every block in which it does not find what it put itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layercache.cache.format.layout import CRC_BYTES, SplitLayout, index_bytes
from layercache.cache.format.records import BlockRecord
from layercache.cache.format.shard import Codec, crc32c
from layercache.cache.storage.s3 import ObjectStore
from layercache.errors import CacheCorruptError, StorageError

TRIES = 8
"""Swaps that may be lost to other writers; each has then repaired something."""
OTHERS = "the writer whose row block was kept could not decode it"


def claim(
    store: ObjectStore,
    layout: SplitLayout,
    record: BlockRecord,
    parts: Sequence[Any],
    *,
    codec: Codec | None,
) -> BlockRecord:
    """Commit a shard and its record, or adopt the ones that are there; the record that is stored. Raises StorageError."""
    shard, where = layout.shard(record.block), layout.record(record.block)
    for _ in range(TRIES):
        mine = record
        if not store.create(shard, parts):
            try:
                data, tag = store.fetch(shard)
            except FileNotFoundError:
                continue  # removed meanwhile
            found = describe_shard(layout, record.block, data, codec=codec, skipped=record.skipped)
            if found is None:
                if not store.swap(shard, parts, tag):
                    continue
            else:
                mine = found
        mine_tag = store.seen[shard]
        if (there := _record(store, where, mine)) and store.tag(shard) == mine_tag:
            return there
    raise StorageError(
        f"{store.path(shard)}: other writers changed it {TRIES} times meanwhile: let one extraction run, or wait for the others, and run the command "
        "again"
    )


def settle(
    store: ObjectStore,
    layout: SplitLayout,
    committed: Mapping[int, BlockRecord],
    *,
    codec: Codec | None,
) -> dict[int, BlockRecord]:
    """The records that are stored now, those of others' bytes among them. Raises StorageError where a shard is not whole any more."""
    there = store.entries(f"{layout.group}/tokens") | store.entries(layout.commits)
    settled = dict(committed)
    for block, record in committed.items():
        shard, where = layout.shard(block), layout.record(block)
        if all(
            key in there and store.seen.get(key, there[key].tag) == there[key].tag
            for key in (shard, where)
        ):
            continue
        for _ in range(TRIES):
            data = store.read_many([shard]).get(shard)
            found = (
                None
                if data is None
                else describe_shard(layout, block, data, codec=codec, skipped=record.skipped)
            )
            if found and (stored := _record(store, where, found)):
                settled[block] = stored
                break
        else:
            raise StorageError(
                f"{store.path(shard)}: changed while the split was written: run the same command again, which makes it anew"
            )
    return settled


def _record(store: ObjectStore, key: str, mine: BlockRecord) -> BlockRecord | None:
    """Put the record of a shard, or take the one that is there; None if other writers were faster."""
    if store.create(key, [mine.to_bytes()]):
        return mine
    try:
        data, tag = store.fetch(key)
    except FileNotFoundError:
        return None
    if there := _fitting(data, mine):
        return there
    return mine if store.swap(key, [mine.to_bytes()], tag) else None


def describe_shard(
    layout: SplitLayout, block: int, data: bytes, *, codec: Codec | None, skipped: Mapping[str, str]
) -> BlockRecord | None:
    """The record of the bytes of a shard, or None if they are not a whole one of this layout. skipped: reasons, where they are known."""
    raw = np.frombuffer(data, np.uint8)
    length = index_bytes(layout.spec)
    if len(raw) < length or (codec is None and len(raw) != layout.shard_bytes):
        return None
    index = raw[-length:]
    index_crc = crc32c(index[:-CRC_BYTES])
    if index[-CRC_BYTES:].tobytes() != index_crc.to_bytes(CRC_BYTES, "little"):
        return None
    crcs, at = [], 0
    for offset, size in index[:-CRC_BYTES].copy().view("<u8").reshape(layout.chunks, 2).tolist():
        if offset != at or size < CRC_BYTES or at + size > len(raw) - length:
            return None
        crc = crc32c(raw[at : at + size - CRC_BYTES])
        if raw[at + size - CRC_BYTES : at + size].tobytes() != crc.to_bytes(CRC_BYTES, "little"):
            return None
        crcs.append(crc)
        at += size
    first = raw[: index[8:16].copy().view("<u8")[0] - CRC_BYTES].tobytes()
    if at != len(raw) - length or (tokens := _decode(layout, first, codec)) is None:
        return None
    start, stop = layout.span(block)
    empty = [start + int(n) for n in np.flatnonzero(np.isnan(tokens[: stop - start]).all(axis=1))]
    return BlockRecord(
        fingerprint=layout.spec.fingerprint,
        split=layout.split,
        block=block,
        rows=stop - start,
        bytes=len(raw),
        crc32c=f"{crc32c(raw):08x}",
        index=f"{index_crc:08x}",
        chunks="".join(f"{c:08x}" for c in crcs),
        skipped={str(row): skipped.get(str(row), OTHERS) for row in empty},
    )


def _decode(
    layout: SplitLayout, chunk: bytes, codec: Codec | None
) -> np.ndarray[Any, np.dtype[Any]] | None:
    """The tokens (R, D) of an inner chunk."""
    try:
        data = codec.decode(chunk) if codec else chunk
        return np.frombuffer(data, layout.dtype).reshape(layout.block_rows, layout.spec.width)
    except (ValueError, RuntimeError):
        return None


def _fitting(data: bytes, mine: BlockRecord) -> BlockRecord | None:
    """The stored record if it is one of the shard that `mine` describes; the reasons why rows were skipped may be in other words."""
    try:
        there = BlockRecord.from_bytes(data, where="")
    except CacheCorruptError:
        return None
    names = ("fingerprint", "split", "block", "rows", "bytes", "crc32c", "index", "chunks")
    same = all(getattr(there, name) == getattr(mine, name) for name in names) and set(
        there.skipped
    ) == set(mine.skipped)
    return there if same else None
