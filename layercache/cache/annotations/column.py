"""One version of one annotation column, and its file.

    annotations/<SHA-256 of the file, 12 hex>.npz      an uncompressed zip, as `numpy.load` reads it
        column.json     name, kind, class names; of every split the number and digest of its ids
        <split>.npy     values of the N samples of a split, in the order of its ids

A file is never changed: its name is the digest of its bytes, which the same values always have.

Shapes: N samples of a split, skipped ones included, C classes.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Interval

from layercache.cache.format.cache_spec import MAX_ROWS, Digest, Name
from layercache.cache.format.layout import safe_name
from layercache.cache.format.typed_json import STRICT, load_json, parse_fields
from layercache.errors import CacheCorruptError

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["class", "integer", "float", "multi-label"]

FOLDER = "annotations"
"""Folder of the columns in a cache."""
DIGEST_DIGITS = 12
MISSING_CLASS = -1
MISSING_INTEGER = -(2**63)
MISSING_FLAG = 255
DTYPES: Mapping[Kind, str] = {
    "class": "<i4",
    "integer": "<i8",
    "float": "<f8",
    "multi-label": "|u1",
}
"""Kind -> dtype of its values: class number, number, or 0/1 of every class. A missing value is -1,
-2**63, NaN, and a row of 255."""
HEADER = "column.json"
REANNOTATE_HINT = (
    "annotate the cache with its table again (layercache annotate), or for the dataset's own label "
    "run the same extraction again"
)


@dataclass(frozen=True, kw_only=True)
class AnnotatedSplit:
    """The samples of one split that a column was made for."""

    __pydantic_config__ = STRICT

    rows: Annotated[int, Interval(ge=0, le=MAX_ROWS)]
    """Number of samples N."""
    ids: Digest
    """SHA-256 hex over the ids in order, as in the spec of the cache."""


@dataclass(frozen=True, kw_only=True)
class _Header:
    __pydantic_config__ = STRICT

    name: Name
    kind: Kind
    classes: tuple[str, ...]
    splits: Mapping[Name, AnnotatedSplit]


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotationColumn:
    """Values of one annotation for the samples of a cache."""

    name: str
    kind: Kind
    classes: tuple[str, ...]
    """Names of the C classes in order; empty for numbers."""
    splits: Mapping[str, AnnotatedSplit]
    """Split -> its samples."""
    values: Mapping[str, Array]
    """Split -> values, (N,) or (N, C); see DTYPES."""

    @cached_property
    def data(self) -> bytes:
        """Bytes of the file; equal for equal columns."""
        header = {
            "name": self.name,
            "kind": self.kind,
            "classes": list(self.classes),
            "splits": {name: vars(split) for name, split in self.splits.items()},
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
            archive.writestr(zipfile.ZipInfo(HEADER), text.encode())
            for split, values in self.values.items():
                member = io.BytesIO()
                typed = np.ascontiguousarray(values, DTYPES[self.kind])
                np.lib.format.write_array(member, typed, version=(1, 0))
                archive.writestr(zipfile.ZipInfo(_member(split)), member.getvalue())
        return buffer.getvalue()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, 12 hex digits: the version of the column."""
        return sha256(self.data).hexdigest()[:DIGEST_DIGITS]

    @property
    def key(self) -> str:
        """Key of the file in the cache."""
        return column_key(self.digest)

    @classmethod
    def from_bytes(cls, data: bytes, *, digest: str, where: str) -> Self:
        """Return the column of a file.

        Args:
            data: Bytes of the file.
            digest: Digest that it must have.
            where: Its path, for messages.

        Raises:
            CacheCorruptError: It has another digest, or is no such file.
        """
        if sha256(data).hexdigest()[:DIGEST_DIGITS] != digest:
            raise CacheCorruptError(
                f"{where}: SHA-256 is not the one of its name; {REANNOTATE_HINT}"
            )
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                header = parse_fields(_Header, load_json(_read_member(archive, HEADER)))
                values = {
                    name: _read_values(archive, header, name, split)
                    for name, split in header.splits.items()
                }
        except (ValueError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as e:
            raise CacheCorruptError(
                f"{where}: is no annotation column ({e}); {REANNOTATE_HINT}"
            ) from None
        return cls(
            name=header.name,
            kind=header.kind,
            classes=header.classes,
            splits=header.splits,
            values=values,
        )


def column_key(digest: str) -> str:
    """Return the key of a column's file in the cache."""
    return f"{FOLDER}/{digest}.npz"


def is_digest(text: str) -> bool:
    """Return whether a text is the digest of a column."""
    return re.fullmatch(rf"[0-9a-f]{{{DIGEST_DIGITS}}}", text) is not None


def is_missing(values: Array, kind: Kind) -> Array:
    """Return which of the N values are missing, bool (N,)."""
    if kind == "class":
        missing = values == MISSING_CLASS
    elif kind == "integer":
        missing = values == MISSING_INTEGER
    elif kind == "float":
        missing = np.isnan(values)
    else:
        missing = (values == MISSING_FLAG).any(axis=1)
    return np.asarray(missing)


def missing_values(kind: Kind, shape: tuple[int, ...]) -> Array:
    """Return an array of missing values."""
    value = {
        "class": MISSING_CLASS,
        "integer": MISSING_INTEGER,
        "float": np.nan,
        "multi-label": MISSING_FLAG,
    }[kind]
    return np.full(shape, value, DTYPES[kind])


def _member(split: str) -> str:
    return f"{safe_name(split)}.npy"


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a stored member; a compressed one could be of any size."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.read(name)


def _read_values(
    archive: zipfile.ZipFile, header: _Header, name: str, split: AnnotatedSplit
) -> Array:
    """Return the values of a split. Raises ValueError if they cannot be those of the header."""
    dtype = np.dtype(DTYPES[header.kind])
    multi_label = header.kind == "multi-label"
    shape = (split.rows, len(header.classes)) if multi_label else (split.rows,)
    data = _read_member(archive, _member(name))
    member = io.BytesIO(data)
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("unknown version of the array format")
    got = np.lib.format.read_array_header_1_0(member)
    if got != (shape, False, dtype):
        raise ValueError(f"split {name!r}: expected {shape} {dtype}, got {got[0]} {got[2]}")
    values = np.frombuffer(data, dtype, offset=member.tell())
    if len(values) != np.prod(shape):
        raise ValueError(f"split {name!r}: expected {shape} values, got {len(values)}")
    n_classes = len(header.classes)
    if (
        header.kind == "class"
        and len(values)
        and not -1 <= values.min() <= values.max() < n_classes
    ):
        raise ValueError(f"split {name!r}: expected class numbers below {n_classes}")
    if multi_label and not np.isin(values, (0, 1, MISSING_FLAG)).all():
        raise ValueError(f"split {name!r}: expected 0 or 1 of every class")
    return values.reshape(shape)
