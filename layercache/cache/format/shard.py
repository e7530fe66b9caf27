"""A shard of the Zarr v3 sharding codec, encoded by hand: inner chunks with their crc32c, then the index with its own.

Zarr's own pipeline encodes the same bytes at a fraction of the speed; the tests read these shards with zarr, xarray and tensorstore.

Shapes: L layers, T token kinds, n images of a row block, R images that a shard holds (n <= R), D width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd

from layercache.cache.format.layout import SplitLayout
from layercache.cache.format.records import REMEDY
from layercache.errors import CacheCorruptError, OptionError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Codec:
    """A compressor of zarr's own: "zstd", "zstd:LEVEL", "blosc" or "blosc:LEVEL" (zstd in blosc, bytes shuffled)."""

    text: str

    def __post_init__(self) -> None:
        name, _, level = self.text.partition(":")
        if name not in ("zstd", "blosc") or not (level == "" or level.isdecimal()):
            raise OptionError(
                f"codec {self.text!r}: expected zstd, zstd:LEVEL, blosc or blosc:LEVEL"
            )
        top = 22 if name == "zstd" else 9
        if not 1 <= self.level <= top:
            raise OptionError(f"codec {self.text!r}: the level of {name} is 1 to {top}")

    @property
    def name(self) -> str:
        """The codec's name in zarr."""
        return self.text.partition(":")[0]

    @property
    def level(self) -> int:
        """Compression level."""
        return int(self.text.partition(":")[2] or 3)

    def metadata(self, itemsize: int) -> dict[str, Any]:
        """The codec in Zarr v3 metadata."""
        if self.name == "zstd":
            return {"name": "zstd", "configuration": {"level": self.level, "checksum": False}}
        return {
            "name": "blosc",
            "configuration": {
                "typesize": itemsize,
                "cname": "zstd",
                "clevel": self.level,
                "shuffle": "shuffle",
                "blocksize": 0,
            },
        }

    def encode(self, chunk: Array) -> bytes:
        """The compressed chunk."""
        return bytes(self._coder.encode(chunk))

    def decode(self, data: bytes) -> bytes:
        """What `encode` was given. Raises ValueError or RuntimeError if it was not this codec's."""
        return bytes(self._coder.decode(data))

    @property
    def _coder(self) -> Any:
        return (
            Zstd(level=self.level)
            if self.name == "zstd"
            else Blosc(cname="zstd", clevel=self.level, shuffle=Blosc.SHUFFLE)
        )


def crc32c(data: Any, crc: int = 0) -> int:
    """crc32c of a contiguous buffer, continuing from `crc`."""
    return int(google_crc32c.extend(crc, data))


@dataclass(frozen=True)
class Shard:
    """One encoded shard."""

    parts: tuple[Any, ...]
    """Buffers whose concatenation is the file; uncompressed chunks are views of the caller's array, not copies."""
    bytes: int
    """Length of the file."""
    crc: int
    """crc32c of the file."""
    index_crc: int
    """crc32c of the index."""
    chunk_crcs: tuple[int, ...]
    """crc32c of every inner chunk, layer-major."""


def encode(layout: SplitLayout, tokens_ltnd: Array, *, codec: Codec | None = None) -> Shard:
    """The shard of one row block: C-contiguous tokens (L, T, n, D), filled up with NaN to R rows."""
    missing = layout.block_rows - tokens_ltnd.shape[2]
    filling = np.full((missing, layout.spec.width), np.nan, layout.dtype)
    parts: list[Any] = []
    crcs: list[int] = []
    ends = [0]
    whole = 0
    for chunk in tokens_ltnd.reshape(-1, *tokens_ltnd.shape[2:]):
        pieces: list[Any] = [chunk, filling] if missing else [chunk]
        if codec:
            pieces = [codec.encode(np.concatenate(pieces))]
        crc = 0
        for piece in pieces:
            crc = crc32c(piece, crc)
            whole = crc32c(piece, whole)
        crcs.append(crc)
        stored = crc.to_bytes(4, "little")
        whole = crc32c(stored, whole)
        parts += [*pieces, stored]
        ends.append(ends[-1] + sum(memoryview(p).nbytes for p in pieces) + 4)
    index = np.stack([ends[:-1], np.diff(ends)], axis=-1).astype("<u8").tobytes()
    index_crc = crc32c(index)
    index += index_crc.to_bytes(4, "little")
    return Shard(
        parts=(*parts, index),
        bytes=ends[-1] + len(index),
        crc=crc32c(index, whole),
        index_crc=index_crc,
        chunk_crcs=tuple(crcs),
    )


def fill_rows(tokens_ltnd: Array, rows: Mapping[int, str], start: int) -> Array:
    """A copy with NaN in the given rows (numbers of the split; the block begins at `start`)."""
    out = tokens_ltnd.copy()
    out[:, :, [r - start for r in rows]] = np.nan
    return out


def metadata_codec(zarr_json: bytes, *, where: str) -> dict[str, Any] | None:
    """The compressor in the metadata of `tokens`, or None. Raises CacheCorruptError, naming `where`, if they are not such metadata."""
    try:
        inner = json.loads(zarr_json)["codecs"][0]["configuration"]["codecs"]
        return next((c for c in inner if c["name"] not in ("bytes", "crc32c")), None)
    except (ValueError, KeyError, TypeError, IndexError) as e:
        raise CacheCorruptError(
            f"{where}: not the metadata of the tokens ({e!r}); {REMEDY}"
        ) from None


def first_non_finite(
    tokens_ltnd: Array, *, leave_out: Sequence[int] = ()
) -> tuple[int, int, int] | None:
    """(l, t, n) of the first token with a NaN or infinite value, or None; the rows n of `leave_out` are not looked at."""
    # All exponent bits set means NaN or infinity: an integer test, three times as fast as numpy's isfinite on float16.
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
