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

import numpy as np

from layercache.cache.format.compressor import Compressor
from layercache.cache.format.crc32c import crc32c
from layercache.cache.format.layout import SplitLayout

Array = np.ndarray[Any, np.dtype[Any]]


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
    """Return the shard of one row block, C-contiguous tokens (L, T, n, D).

    It is padded with NaN, or with the code of a token that does not exist.
    """
    n_padding = layout.block_rows - tokens_ltnd.shape[2]
    padding = np.full((n_padding, layout.width), layout.missing, layout.dtype)
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


def blank_rows(
    tokens_ltnd: Array, rows: Mapping[int, str], start: int, *, missing: float = np.nan
) -> Array:
    """Return a copy with `missing` in the given rows of the split; the block begins at `start`."""
    out = tokens_ltnd.copy()
    out[:, :, [r - start for r in rows]] = missing
    return out


def is_missing(tokens: Array, missing: float) -> Array:
    """Return which numbers are `missing`, NaN or the code of a token that does not exist."""
    return np.isnan(tokens) if np.isnan(missing) else tokens == missing


def first_non_finite(
    tokens_ltnd: Array, *, leave_out: Sequence[int] = ()
) -> tuple[int, int, int] | None:
    """Return (l, t, n) of the first token with a NaN or infinite value, or None.

    Integers are codes: the code of such a token is all -128, or 255 if unsigned. The rows n of
    `leave_out` are not checked.
    """
    if tokens_ltnd.dtype.kind in "iu":
        missing = np.iinfo(tokens_ltnd.dtype).min or np.iinfo(tokens_ltnd.dtype).max
        bad = (tokens_ltnd[..., 0] == missing).nonzero()
        left_out = np.isin(bad[2], list(leave_out))
        return next(zip(*(axis[~left_out].tolist() for axis in bad), strict=True), None)
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
