"""The commit records: what says that a row block, and in the end a split, is there and what its bytes must be.

A record is canonical JSON that carries the SHA-256 of its own values, so that a flipped byte in a record shows too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Self

from layercache.cache.format.spec import sha256_json
from layercache.errors import CacheCorruptError


class _Record:
    def to_bytes(self) -> bytes:
        """Canonical JSON with the record's own checksum."""
        value = asdict(self)  # type: ignore[call-overload]
        return (
            json.dumps({**value, "sha256": sha256_json(value)}, indent=0, sort_keys=True) + "\n"
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str, checked: bool = False) -> Self:
        """The record that `to_bytes` wrote. Raises CacheCorruptError, naming `where`, if a byte differs; `checked`: it is known that none does."""
        try:
            value = json.loads(data)
            del value["sha256"]
            record = cls(**value)
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise CacheCorruptError(f"{where}: not a commit record ({e}); {REMEDY}") from None
        if not checked and record.to_bytes() != data:
            raise CacheCorruptError(
                f"{where}: the record does not match its own checksum; {REMEDY}"
            )
        return record


REMEDY = "the file was changed, cut or lost after it was written: delete it and run the same extraction again, which redoes what is missing"


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
    """Length of the shard file."""
    crc32c: str
    """Of the whole shard file, 8 hex digits."""
    index: str
    """crc32c of the shard's index, 8 hex digits."""
    chunks: str
    """crc32c of every inner chunk, layer-major, 8 hex digits each, joined."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Row number (of the split) -> why there is no token."""


@dataclass(frozen=True, kw_only=True)
class CompleteRecord(_Record):
    """Written last: the split is complete."""

    fingerprint: str
    split: str
    rows: int
    """N, skipped rows included."""
    blocks: int
    block_rows: int
    """R."""
    codec: str | None
    """As given to the writer, or None."""
    files: Mapping[str, str]
    """Key -> SHA-256 of every other file of the split but the shards: spec, Zarr metadata, label, id, valid, block records."""
    skipped: Mapping[str, str]
    """Row number -> why there is no token."""
