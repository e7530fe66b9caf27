"""Compressors of the inner chunks of a shard: zarr's own zstd and blosc."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd

from layercache.cache.format.records import REPAIR_HINT
from layercache.errors import CacheCorruptError, OptionError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Compressor:
    """A compressor of zarr's own, as NAME or NAME:LEVEL.

    NAME is "zstd", or "blosc" (zstd in blosc, with shuffled bytes).
    """

    text: str

    def __post_init__(self) -> None:
        name, _, level = self.text.partition(":")
        if name not in ("zstd", "blosc") or not (level == "" or level.isdecimal()):
            raise OptionError(
                f"compressor {self.text!r}: expected zstd, zstd:LEVEL, blosc or blosc:LEVEL"
            )
        top = 22 if name == "zstd" else 9
        if not 1 <= self.level <= top:
            raise OptionError(
                f"compressor {self.text!r}: expected a level of {name} from 1 to {top}"
            )

    @property
    def name(self) -> str:
        """Name of the codec in zarr."""
        return self.text.partition(":")[0]

    @property
    def level(self) -> int:
        """Compression level."""
        return int(self.text.partition(":")[2] or 3)

    def metadata(self, itemsize: int) -> dict[str, Any]:
        """Return the codec in Zarr v3 metadata."""
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
        """Return the compressed chunk."""
        return bytes(self._coder.encode(chunk))

    def decode(self, data: bytes, *, nbytes: int) -> Array:
        """Return what `encode` was given, uint8 (nbytes,).

        Raises ValueError or RuntimeError if another codec encoded it, or it is more than `nbytes`.
        """
        out = np.zeros(nbytes, np.uint8)  # never as large as the data claim to be
        self._coder.decode(data, out=out)
        return out

    @property
    def _coder(self) -> Any:
        return (
            Zstd(level=self.level)
            if self.name == "zstd"
            else Blosc(cname="zstd", clevel=self.level, shuffle=Blosc.SHUFFLE)
        )


def compressor_in(metadata: bytes, *, where: str) -> dict[str, Any] | None:
    """Return the compressor in the Zarr metadata of `tokens`, or None.

    Its form is that of `Compressor.metadata`.

    Raises:
        CacheCorruptError: They are not such metadata; `where` is their path.
    """
    try:
        codecs = json.loads(metadata)["codecs"][0]["configuration"]["codecs"]
        return next((codec for codec in codecs if codec["name"] not in ("bytes", "crc32c")), None)
    except (ValueError, KeyError, TypeError, IndexError) as e:
        raise CacheCorruptError(
            f"{where}: not the metadata of the tokens ({e!r}); {REPAIR_HINT}"
        ) from None


def format_compressor(metadata: dict[str, Any] | None) -> str:
    """Return NAME:LEVEL, or "none"."""
    if metadata is None:
        return "none"
    options = metadata.get("configuration", {})
    return f"{metadata['name']}:{options.get('level', options.get('clevel'))}"
