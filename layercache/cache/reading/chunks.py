"""Tokens from one shard, read straight to their final place and verified.

The crc32c of each inner chunk is checked the first time that it is read.

The layout gives the place of an inner chunk in an uncompressed shard (`encode_shard`
writes them in layer-major order without gaps), and the commit record has the chunk's crc32c: so the
shard's index is read only to check that it is the right shard.

Shapes: n rows, R images that a shard holds, D width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from threading import Lock
from typing import Any

import numpy as np

from layercache.cache.format.compressor import Compressor
from layercache.cache.format.crc32c import crc32c
from layercache.cache.format.layout import CRC_BYTES, SplitLayout, index_bytes
from layercache.cache.format.records import REPAIR_HINT, BlockRecord
from layercache.cache.storage.base import Readable
from layercache.errors import CacheCorruptError

Array = np.ndarray[Any, np.dtype[Any]]
Target = tuple[int, Array]
"""Number of an inner chunk, and where its rows (n, D) go: contiguous, in the storage dtype."""


class VerifiedChunks:
    """The inner chunks that this process has verified: a flag per chunk and version of a file."""

    def __init__(self, max_files: int = 100_000) -> None:
        self._files: OrderedDict[Hashable, bytearray] = OrderedDict()
        self._max_files = max_files
        self._lock = Lock()

    def bitmap(self, identity: Hashable, chunks: int) -> bytearray:
        """Return the flags of a file, one byte each: of its chunks, then of its index."""
        with self._lock:
            flags = self._files.setdefault(identity, bytearray(chunks + 1))
            self._files.move_to_end(identity)
            while len(self._files) > self._max_files:
                self._files.popitem(last=False)
            return flags

    def clear(self) -> None:
        """Forget all, so that every chunk is verified again."""
        with self._lock:
            self._files.clear()


VERIFIED = VerifiedChunks()
"""Shared by the whole process: a study that opens a cache a hundred times verifies it once."""


def read_chunks(
    file: Readable,
    layout: SplitLayout,
    rows: tuple[int, int],
    targets: Iterable[Target],
    *,
    record: Callable[[], BlockRecord] | None,
    batch_bytes: int,
) -> None:
    """Read rows [lo, hi) of inner chunks of an uncompressed shard.

    Args:
        file: The shard.
        layout: Layout of its split.
        rows: lo and hi, counted within the block.
        targets: Chunks to read, and where their rows go.
        record: Returns the block's commit record, to check what was not checked yet; None to check
            only the size of the file.
        batch_bytes: Bytes to read and check at a time.

    Raises:
        CacheCorruptError: The size, the index or a chunk is not what was written.
    """
    check_size(file, layout.shard_bytes)
    targets = sorted(targets, key=lambda target: target[0])
    flags = VERIFIED.bitmap(file.identity, layout.chunks)
    expected = record() if record and not all(flags[k] for k, _ in targets) else None
    if expected and not flags[-1]:
        _read_index(file, layout, expected)
        flags[-1] = 1
    per_batch = max(1, batch_bytes // layout.chunk_stride)
    for i in range(0, len(targets), per_batch):
        batch = targets[i : i + per_batch]
        unchecked = {k for k, _ in batch if not flags[k]} if expected else set()
        checks = _read_batch(file, layout, rows, batch, unchecked)
        if expected:
            _check_batch(file, layout, checks, expected)
            for k in unchecked:
                flags[k] = 1


def read_compressed(
    file: Readable,
    layout: SplitLayout,
    rows: tuple[int, int],
    targets: Iterable[Target],
    *,
    record: BlockRecord,
    compressor: Compressor,
) -> None:
    """Read rows [lo, hi) of inner chunks of a compressed shard.

    The index is read, then one range per chunk; each of them is checked every time.

    Zarr's own pipeline fetches metadata and index again with every chunk.

    Raises:
        CacheCorruptError: The size, the index or a chunk is not what was written.
    """
    check_size(file, record.bytes)
    index = _read_index(file, layout, record)
    for k, destination in targets:
        offset, length = index[k].tolist()
        if not CRC_BYTES <= length <= file.size - offset:
            raise CacheCorruptError(
                f"{file.path}: the index gives chunk {k} the bytes {offset} to {offset + length} "
                f"of {file.size}; {REPAIR_HINT}"
            )
        data = np.empty(length, np.uint8)
        file.read_into(offset, [data])
        _compare(file, layout, record, k, crc32c(data[:-CRC_BYTES]))
        _compare(file, layout, record, k, int.from_bytes(data[-CRC_BYTES:].tobytes(), "little"))
        nbytes = layout.block_rows * layout.row_bytes
        try:
            decoded = compressor.decode(data[:-CRC_BYTES].tobytes(), nbytes=nbytes)
        except (ValueError, RuntimeError) as e:
            raise CacheCorruptError(f"{file.path}: chunk {k}: {e}; {REPAIR_HINT}") from None
        chunk = decoded.view(layout.dtype).reshape(layout.block_rows, layout.width)
        destination[...] = chunk[rows[0] : rows[1]]


def check_size(file: Readable, expected: int) -> None:
    """Raise CacheCorruptError if the file has another size."""
    if file.size != expected:
        raise CacheCorruptError(
            f"{file.path}: expected {expected} bytes, got {file.size}; {REPAIR_HINT}"
        )


_Check = tuple[int, Array, Array, Array]
"""An inner chunk as it was read: its number; the bytes before the wanted rows; these rows; the
bytes behind them, with the stored crc32c."""


def _read_batch(
    file: Readable,
    layout: SplitLayout,
    rows: tuple[int, int],
    batch: Sequence[Target],
    unchecked: set[int],
) -> list[_Check]:
    """Read the wanted rows of each chunk; of the unchecked ones, every byte.

    Neighbouring ranges are one call.
    """
    n_before = rows[0] * layout.row_bytes
    n_after = (layout.block_rows - rows[1]) * layout.row_bytes + CRC_BYTES
    ranges: list[tuple[int, list[Array]]] = []
    checks: list[_Check] = []
    end = -CRC_BYTES - 1
    for k, destination in batch:
        offset, buffers = k * layout.chunk_stride + n_before, [destination]
        if k in unchecked:
            before, after = np.empty(n_before, np.uint8), np.empty(n_after, np.uint8)
            offset, buffers = k * layout.chunk_stride, [before, destination, after]
            checks.append((k, before, destination, after))
        if offset - end == CRC_BYTES:  # the crc of a checked chunk: read along, to make one range
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
    file: Readable, layout: SplitLayout, checks: Sequence[_Check], record: BlockRecord
) -> None:
    for k, before, destination, after in checks:
        crc = crc32c(after[:-CRC_BYTES], crc32c(destination, crc32c(before)))
        _compare(file, layout, record, k, crc)
        _compare(file, layout, record, k, int.from_bytes(after[-CRC_BYTES:].tobytes(), "little"))


def _read_index(
    file: Readable, layout: SplitLayout, record: BlockRecord
) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return offset and length of every inner chunk.

    Raises CacheCorruptError if the index is not the one of the record.
    """
    data = np.empty(index_bytes(layout.spec), np.uint8)
    file.read_into(file.size - data.nbytes, [data])
    crc = crc32c(data[:-CRC_BYTES])
    stored = int.from_bytes(data[-CRC_BYTES:].tobytes(), "little")
    if f"{crc:08x}" != record.index_crc32c or stored != crc:
        raise CacheCorruptError(
            f"{file.path}: the shard's index is not the one that was written; {REPAIR_HINT}"
        )
    return data[:-CRC_BYTES].view("<u8").reshape(layout.chunks, 2)


def _compare(file: Readable, layout: SplitLayout, record: BlockRecord, k: int, crc: int) -> None:
    """Raise CacheCorruptError if the crc32c of inner chunk `k` is not the one of the record."""
    if f"{crc:08x}" != record.chunk_crc32c[8 * k : 8 * k + 8]:
        layer, token = divmod(k, layout.shape[1])
        raise CacheCorruptError(
            f"{file.path}: layer {layout.spec.layers[layer]}, token {layout.spec.tokens[token]!r}: "
            "crc32c does not match; "
            f"{REPAIR_HINT}"
        )
