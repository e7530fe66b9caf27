"""Tokens out of uncompressed shards: preadv straight to their final place, each inner chunk's crc32c checked the first time it is read.

The bytes of an inner chunk lie where the layout says (`encode` in shard.py puts them in layer-major order without gaps), and the commit record
has the chunk's crc32c: so a read needs no look at the shard's index but the check that it is the right one.

Shapes: R images that a shard holds, D width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import Any

import numpy as np

from layercache.cache.format.layout import CRC_BYTES, SplitLayout, index_bytes
from layercache.cache.format.records import REMEDY, BlockRecord
from layercache.cache.format.shard import Codec, crc32c
from layercache.cache.storage.base import Readable, Store
from layercache.errors import CacheCorruptError

Array = np.ndarray[Any, np.dtype[Any]]


class VerifiedChunks:
    """Which inner chunks this process has found right: per file (as it is now; a changed file is checked anew), one flag per chunk."""

    def __init__(self, limit: int = 100_000) -> None:
        self._files: OrderedDict[Hashable, bytearray] = OrderedDict()
        self._limit = limit
        self._lock = Lock()

    def flags(self, file: Hashable, chunks: int) -> bytearray:
        """The flags of a file; the one behind the last chunk's is for the index."""
        with self._lock:
            flags = self._files.setdefault(file, bytearray(chunks + 1))
            self._files.move_to_end(file)
            while len(self._files) > self._limit:
                self._files.popitem(last=False)
            return flags

    def forget(self) -> None:
        """Check everything anew."""
        with self._lock:
            self._files.clear()


VERIFIED = VerifiedChunks()
"""One for the process: a study that opens a cache a hundred times checks it once."""


def read_chunks(
    store: Store,
    layout: SplitLayout,
    block: int,
    rows: tuple[int, int],
    wanted: Sequence[tuple[int, Array]],
    *,
    record: Callable[[int], BlockRecord] | None,
) -> None:
    """Read rows [lo, hi) of a block for each (inner chunk, destination (hi - lo, D), contiguous).

    record: gives the block's commit record, for the check of what was not checked yet; None to check nothing but the file's length.
    Raises CacheCorruptError.
    """
    key = layout.shard(block)
    ordered = sorted(wanted, key=_chunk_number)
    per_batch = max(1, store.batch_bytes // layout.chunk_stride)
    try:
        with store.open(key) as file:
            if file.size != layout.shard_bytes:
                raise CacheCorruptError(
                    f"{store.path(key)}: expected {layout.shard_bytes} bytes, came {file.size}; {REMEDY}"
                )
            flags = VERIFIED.flags(file.identity, layout.chunks) if record else None
            expected = (
                record(block)
                if record and flags and not all(flags[k] for k, _ in ordered)
                else None
            )
            if expected and flags and not flags[-1]:
                _read_index(file, layout, expected)
                flags[-1] = 1
            for i in range(0, len(ordered), per_batch):
                batch = ordered[i : i + per_batch]
                unchecked = {k for k, _ in batch if not flags[k]} if expected and flags else set()
                checks = _read_batch(file, layout, rows, batch, unchecked)
                if expected and flags:
                    _check_batch(layout, checks, expected.chunks, flags, where=file.path)
    except FileNotFoundError:
        raise CacheCorruptError(
            f"{store.path(key)}: row block {block} of {layout.blocks} is missing; {REMEDY}"
        ) from None
    except EOFError as e:
        raise CacheCorruptError(
            f"{store.path(key)}: {e}, expected {layout.shard_bytes}; {REMEDY}"
        ) from None


_Check = tuple[int, Array, Array, Array]
"""An inner chunk as it was read: its number; what lies before the wanted rows; these; what lies behind them, with the stored crc32c."""


def _chunk_number(wanted: tuple[int, Array]) -> int:
    return wanted[0]


def _read_batch(
    file: Readable,
    layout: SplitLayout,
    rows: tuple[int, int],
    batch: Sequence[tuple[int, Array]],
    unchecked: set[int],
) -> list[_Check]:
    """Read the wanted rows of each chunk; of the unchecked ones everything."""
    head, tail = (
        rows[0] * layout.row_bytes,
        (layout.block_rows - rows[1]) * layout.row_bytes + CRC_BYTES,
    )
    ranges: list[tuple[int, list[Array]]] = []
    checks: list[_Check] = []
    end = -CRC_BYTES - 1
    for k, destination in batch:
        offset, buffers = k * layout.chunk_stride + head, [destination]
        if k in unchecked:
            before, after = np.empty(head, np.uint8), np.empty(tail, np.uint8)
            offset, buffers = k * layout.chunk_stride, [before, destination, after]
            checks.append((k, before, destination, after))
        if (
            offset - end == CRC_BYTES
        ):  # a crc that was checked before: read along, so that neighbouring chunks are one call
            ranges[-1][1].append(np.empty(CRC_BYTES, np.uint8))
            end = offset
        if offset == end:
            ranges[-1][1].extend(buffers)
        else:
            ranges.append((offset, buffers))
        end = offset + sum(b.nbytes for b in buffers)
    for offset, buffers in ranges:
        file.read_into(offset, buffers)
    return checks


def _check_batch(
    layout: SplitLayout, checks: Sequence[_Check], crcs: str, flags: bytearray, *, where: str
) -> None:
    for k, before, destination, after in checks:
        for crc in (
            crc32c(after[:-CRC_BYTES], crc32c(destination, crc32c(before))),
            int.from_bytes(after[-CRC_BYTES:].tobytes(), "little"),
        ):
            _compare(layout, k, crc, crcs, where=where)
        flags[k] = 1


def check_stored(
    file: Readable, layout: SplitLayout, record: BlockRecord, chunks: Sequence[int]
) -> None:
    """For shards of any codec: the index, and the crc32c stored behind each chunk, are the record's. Raises CacheCorruptError.

    That a chunk's bytes have the crc32c that is stored behind them is for whoever decodes them to check.
    """
    index = _read_index(file, layout, record)
    stored = np.empty(CRC_BYTES, np.uint8)
    for k in chunks:
        offset, length = index[k].tolist()
        file.read_into(offset + length - CRC_BYTES, [stored])
        _compare(
            layout, k, int.from_bytes(stored.tobytes(), "little"), record.chunks, where=file.path
        )


def read_compressed(
    store: Store,
    layout: SplitLayout,
    block: int,
    rows: tuple[int, int],
    wanted: Sequence[tuple[int, Array]],
    *,
    record: BlockRecord,
    codec: Codec,
) -> None:
    """As `read_chunks`, of a shard with a codec: the index once and one range for each chunk, all checked every time. Raises CacheCorruptError.

    Zarr's own way fetches metadata and index with every chunk, which over a network is most of the time.
    """
    key = layout.shard(block)
    try:
        with store.open(key) as file:
            if file.size != record.bytes:
                raise CacheCorruptError(
                    f"{store.path(key)}: expected {record.bytes} bytes, came {file.size}; {REMEDY}"
                )
            index = _read_index(file, layout, record)
            for k, destination in wanted:
                offset, length = index[k].tolist()
                data = np.empty(length, np.uint8)
                file.read_into(offset, [data])
                for crc in (
                    crc32c(data[:-CRC_BYTES]),
                    int.from_bytes(data[-CRC_BYTES:].tobytes(), "little"),
                ):
                    _compare(layout, k, crc, record.chunks, where=file.path)
                decoded = np.frombuffer(codec.decode(data[:-CRC_BYTES].tobytes()), layout.dtype)
                destination[...] = decoded.reshape(layout.block_rows, layout.spec.width)[
                    rows[0] : rows[1]
                ]
    except FileNotFoundError:
        raise CacheCorruptError(
            f"{store.path(key)}: row block {block} of {layout.blocks} is missing; {REMEDY}"
        ) from None


def _read_index(
    file: Readable, layout: SplitLayout, record: BlockRecord
) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Offset and length of every inner chunk. Raises CacheCorruptError if the index is not the one of the record."""
    data = np.empty(index_bytes(layout.spec), np.uint8)
    file.read_into(file.size - data.nbytes, [data])
    crc = crc32c(data[:-CRC_BYTES])
    if f"{crc:08x}" != record.index or data[-CRC_BYTES:].tobytes() != crc.to_bytes(
        CRC_BYTES, "little"
    ):
        raise CacheCorruptError(
            f"{file.path}: the shard's index is not the one that was written; {REMEDY}"
        )
    return data[:-CRC_BYTES].view("<u8").reshape(layout.chunks, 2)


def _compare(layout: SplitLayout, k: int, crc: int, crcs: str, *, where: str) -> None:
    if f"{crc:08x}" != crcs[8 * k : 8 * k + 8]:
        layer, token = (
            layout.spec.layers[k // layout.shape[1]],
            layout.spec.tokens[k % layout.shape[1]],
        )
        raise CacheCorruptError(
            f"{where}: layer {layer}, token {token!r}: crc32c does not match; {REMEDY}"
        )
