"""The commit records of row blocks, and of a complete split.

A record that exists means that its row block, or its split, is complete; it gives the size and the
checksums of the bytes.

A record is canonical JSON that carries the SHA-256 of its own values, so that a flipped byte in a
record is detected too.
"""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from layercache.cache.format.cache_spec import sha256_json
from layercache.cache.format.layout import CODEC_KEY, SplitLayout
from layercache.cache.format.typed_json import STRICT, load_json, parse_fields, shorten
from layercache.errors import CacheCorruptError

REPAIR_HINT = (
    "the file was changed, cut or lost after it was written: delete it and run the same extraction "
    "again, which redoes what "
    "is missing"
)


_SHA256 = re.compile(r"[0-9a-f]{64}")
_CRCS = re.compile(r"([0-9a-f]{8})+")


class _Record:
    __pydantic_config__ = STRICT

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
            CacheCorruptError: A byte differs, or a field has another type.
        """
        try:
            value = load_json(data)
            del value["sha256"]
            record = parse_fields(cls, value)
        except (ValueError, KeyError, TypeError) as e:
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
    saturated: int | None = None
    """int8 codes of numbers outside the range of the sample; None, and not in the file, for tokens
    that are not stored as int8 codes."""
    etags: tuple[str, str] = field(default=("", ""), compare=False)
    """Etags of shard and record on object storage, where known; not part of the file."""

    @classmethod
    def of_block(
        cls,
        data: builtins.bytes,
        layout: SplitLayout,
        block: int,
        *,
        where: str,
        checked: bool = False,
    ) -> Self:
        """Return the record of one row block of a split. Arguments: see `from_bytes`.

        Raises:
            CacheCorruptError: It is another block's, or no such block can have these values.
        """
        record = cls.from_bytes(data, where=where, checked=checked)
        if (record.fingerprint, record.split, record.block) != (
            layout.spec.fingerprint,
            layout.split,
            block,
        ):
            raise CacheCorruptError(
                f"{where}: belongs to another cache, split or block ({record.fingerprint[:12]}, "
                f"{record.split!r}, {record.block}); {REPAIR_HINT}"
            )
        start, stop = layout.span(block)
        _check(
            where,
            rows=(record.rows == stop - start, f"{stop - start}", record.rows),
            # compressed chunks are smaller, or hardly larger, than plain ones
            bytes=(
                0 < record.bytes <= 2 * layout.shard_bytes + 2**20,
                f"about {layout.shard_bytes}",
                record.bytes,
            ),
            crc32c=(_has_crcs(record.crc32c, 1), "8 hex digits", record.crc32c),
            index_crc32c=(_has_crcs(record.index_crc32c, 1), "8 hex digits", record.index_crc32c),
            chunk_crc32c=(
                _has_crcs(record.chunk_crc32c, layout.chunks),
                f"{layout.chunks} times 8 hex digits",
                record.chunk_crc32c,
            ),
            skipped=_check_rows(record.skipped, start, stop),
        )
        return record

    def _values(self) -> dict[str, Any]:
        value = super()._values()
        del value["etags"]
        return _without_none(value, "saturated")


@dataclass(frozen=True, kw_only=True)
class PartialRecord(_Record):
    """The first rows of a row block that is not committed yet."""

    fingerprint: str
    split: str
    block: int
    rows: int
    """Number of rows."""
    crc32c: str
    """crc32c of their tokens, 8 hex digits."""
    skipped: Mapping[str, str]
    """Row number (of the split) -> reason why there is no token."""


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
    """Value given to the writer, or None."""
    files: Mapping[str, str]
    """Key -> SHA-256 of every other file of the split but the shards: spec, Zarr metadata, id,
    valid, block records."""
    skipped: Mapping[str, str]
    """Row number -> reason why there is no token."""
    saturated: int | None = None
    """Sum of the block records'; not in the file if None."""

    def _values(self) -> dict[str, Any]:
        return _without_none(super()._values(), "saturated")

    @classmethod
    def of_split(cls, data: bytes, layout: SplitLayout, *, where: str) -> Self:
        """Return the complete record of a split. Arguments: see `from_bytes`.

        Raises:
            CacheCorruptError: It is another split's, or lists what is no file of the split.
        """
        record = cls.from_bytes(data, where=where)
        if (record.fingerprint, record.split, record.rows) != (
            layout.spec.fingerprint,
            layout.split,
            layout.rows,
        ):
            raise CacheCorruptError(
                f"{where}: belongs to another cache or split ({record.fingerprint[:12]}, "
                f"{record.split!r}); {REPAIR_HINT}"
            )
        foreign = [key for key in record.files if not layout.is_small_file(key)]
        n_records = sum(layout.block_of(key) is not None for key in record.files)
        required = [layout.id, layout.valid, layout.tokens_metadata]
        required += [CODEC_KEY] if layout.spec.codec else []
        missing = [key for key in required if key not in record.files]
        malformed = [key for key, digest in record.files.items() if not _SHA256.fullmatch(digest)]
        _check(
            where,
            blocks=(record.blocks == layout.blocks, f"{layout.blocks}", record.blocks),
            block_rows=(
                record.block_rows == layout.block_rows,
                f"{layout.block_rows}",
                record.block_rows,
            ),
            files=(not foreign, "files of this split", foreign[:1]),
            records=(n_records == layout.blocks, f"{layout.blocks} in files", n_records),
            arrays=(not missing, f"{', '.join(required)} in files", f"no {missing[:1]}"),
            digests=(not malformed, "64 hex digits for each file", malformed[:1]),
            skipped=_check_rows(record.skipped, 0, layout.rows),
        )
        return record


def _without_none(value: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != name or item is not None}


_Condition = tuple[bool, str, Any]
"""(the value is valid, what was expected, the value)."""


def _check(where: str, **conditions: _Condition) -> None:
    """Raise CacheCorruptError for the first field that cannot have its value."""
    for name, (holds, expected, got) in conditions.items():
        if not holds:
            raise CacheCorruptError(
                f"{where}: {name}: expected {expected}, got {shorten(got)}; {REPAIR_HINT}"
            )


def _check_rows(skipped: Iterable[str], start: int, stop: int) -> _Condition:
    outside = [
        row
        for row in skipped
        if not (row.isascii() and row.isdecimal() and len(row) < 16)
        or not start <= int(row) < stop
        or row != str(int(row))
    ]
    return not outside, f"rows {start} to {stop - 1}", outside[:1]


def _has_crcs(text: str, count: int) -> bool:
    return len(text) == 8 * count and _CRCS.fullmatch(text) is not None
