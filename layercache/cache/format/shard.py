"""A shard of the Zarr v3 sharding codec, encoded by hand.

It holds the inner chunks, each with its crc32c, then the index with its own.

Zarr's own pipeline encodes the same bytes at a fraction of the speed; the tests read these shards
with zarr, xarray and tensorstore.

Shapes: L layers, T token kinds, n images of a row block, R images that a shard holds (n <= R), D
width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np

from layercache.cache.format.compressor import Compressor
from layercache.cache.format.layout import SplitLayout

Array = np.ndarray[Any, np.dtype[Any]]


def crc32c(data: Any, crc: int = 0) -> int:
    """Return the crc32c of a contiguous buffer, continued from `crc`."""
    return int(google_crc32c.extend(crc, data))


@dataclass(frozen=True)
class Shard:
    """One encoded shard."""

    parts: tuple[Any, ...]
    """Buffers whose concatenation is the file; uncompressed chunks are views of the caller's array,
    not copies."""
    bytes: int
    """Size of the file."""
    crc: int
    """crc32c of the file."""
    index_crc: int
    """crc32c of the index."""
    chunk_crcs: tuple[int, ...]
    """crc32c of every inner chunk, layer-major."""


def encode_shard(
    layout: SplitLayout, tokens_ltnd: Array, *, compressor: Compressor | None = None
) -> Shard:
    """Return the shard of one row block, C-contiguous tokens (L, T, n, D), padded with NaN."""
    n_padding = layout.block_rows - tokens_ltnd.shape[2]
    padding = np.full((n_padding, layout.spec.width), np.nan, layout.dtype)
    parts: list[Any] = []
    chunk_crcs: list[int] = []
    ends = [0]
    file_crc = 0
    for chunk in tokens_ltnd.reshape(-1, *tokens_ltnd.shape[2:]):
        pieces: list[Any] = [chunk, padding] if n_padding else [chunk]
        if compressor:
            pieces = [compressor.encode(np.concatenate(pieces))]
        crc = 0
        for piece in pieces:
            crc = crc32c(piece, crc)
            file_crc = crc32c(piece, file_crc)
        chunk_crcs.append(crc)
        stored = crc.to_bytes(4, "little")
        file_crc = crc32c(stored, file_crc)
        parts += [*pieces, stored]
        ends.append(ends[-1] + sum(memoryview(p).nbytes for p in pieces) + 4)
    index = np.stack([ends[:-1], np.diff(ends)], axis=-1).astype("<u8").tobytes()
    index_crc = crc32c(index)
    index += index_crc.to_bytes(4, "little")
    return Shard(
        parts=(*parts, index),
        bytes=ends[-1] + len(index),
        crc=crc32c(index, file_crc),
        index_crc=index_crc,
        chunk_crcs=tuple(chunk_crcs),
    )


def blank_rows(tokens_ltnd: Array, rows: Mapping[int, str], start: int) -> Array:
    """Return a copy with NaN in the given rows of the split; the block begins at `start`."""
    out = tokens_ltnd.copy()
    out[:, :, [r - start for r in rows]] = np.nan
    return out


def first_non_finite(
    tokens_ltnd: Array, *, leave_out: Sequence[int] = ()
) -> tuple[int, int, int] | None:
    """Return (l, t, n) of the first token with a NaN or infinite value, or None.

    The rows n of `leave_out` are not checked.
    """
    # All exponent bits set means NaN or infinity: an integer test, three times as fast as numpy's
    # isfinite on float16.
    bits, mask = (np.uint16, 0x7C00) if tokens_ltnd.dtype == np.float16 else (np.uint32, 0x7F800000)
    kept = np.ones(tokens_ltnd.shape[2], np.bool_)
    kept[list(leave_out)] = False
    for i in np.ndindex(tokens_ltnd.shape[:2]):
        exponents = np.bitwise_and(tokens_ltnd[i].view(bits), bits(mask))
        if exponents.size and exponents.max() == mask:
            bad = (exponents == mask).any(axis=1) & kept
            if bad.any():
                return i[0], i[1], int(bad.argmax())
    return None
