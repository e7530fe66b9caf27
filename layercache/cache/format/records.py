"""The commit records of row blocks, and of a complete split.

A record that exists means that its row block, or its split, is complete; it tells what the bytes
must be.

A record is canonical JSON that carries the SHA-256 of its own values, so that a flipped byte in a
record is detected too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from layercache.cache.format.spec import sha256_json
from layercache.errors import CacheCorruptError

REPAIR_HINT = (
    "the file was changed, cut or lost after it was written: delete it and run the same extraction "
    "again, which redoes what "
    "is missing"
)


class _Record:
    def _values(self) -> dict[str, Any]:
        """Return what goes into the file."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    def to_bytes(self) -> bytes:
        """Return canonical JSON with the record's own checksum."""
        value = self._values()
        value["sha256"] = sha256_json(value)
        return (json.dumps(value, indent=0, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str, checked: bool = False) -> Self:
        """Return the record that `to_bytes` wrote.

        Args:
            data: Bytes of the file.
            where: Path of the file, for messages.
            checked: The bytes are known to be what was written, so that the checksum need not be
                computed.

        Raises:
            CacheCorruptError: A byte differs.
        """
        try:
            value = json.loads(data)
            del value["sha256"]
            record = cls(**value)
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise CacheCorruptError(f"{where}: not a commit record ({e}); {REPAIR_HINT}") from None
        if not checked and record.to_bytes() != data:
            raise CacheCorruptError(
                f"{where}: the record does not match its own checksum; {REPAIR_HINT}"
            )
        return record


@dataclass(frozen=True, kw_only=True)
class BlockRecord(_Record):
    """One committed row block."""

    fingerprint: str
    """The cache's, 64 hex digits."""
    split: str
    block: int
    rows: int
    """Rows of the split in this block, skipped ones included, padding not."""
    bytes: int
    """Size of the shard file."""
    crc32c: str
    """crc32c of the whole shard file, 8 hex digits."""
    index_crc32c: str
    """crc32c of the shard's index, 8 hex digits."""
    chunk_crc32c: str
    """crc32c of every inner chunk, layer-major, 8 hex digits each, joined."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Row number (of the split) -> reason why there is no token."""
    etags: tuple[str, str] = field(default=("", ""), compare=False)
    """Etags of shard and record on object storage, where known; not part of the file."""

    def _values(self) -> dict[str, Any]:
        value = super()._values()
        del value["etags"]
        return value


@dataclass(frozen=True, kw_only=True)
class CompleteRecord(_Record):
    """The record of a split, written last: the split is complete."""

    fingerprint: str
    split: str
    rows: int
    """N, skipped rows included."""
    blocks: int
    block_rows: int
    """R."""
    compressor: str | None
    """As given to the writer, or None."""
    files: Mapping[str, str]
    """Key -> SHA-256 of every other file of the split but the shards: spec, Zarr metadata, label,
    id, valid, block records."""
    skipped: Mapping[str, str]
    """Row number -> reason why there is no token."""
