"""The current version of every annotation column of a cache: annotations/columns.json.

The file of a column is written first, then the list that names it, atomically. So a reader of
the list finds every file in it, and a kill in between leaves the old list. On a disk a lock keeps
other writers out; on object storage the list is replaced on the condition that it has not changed
since it was read, and a writer that loses starts again from the new one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Predicate

from layercache.cache.annotations.column import (
    FOLDER,
    REANNOTATE_HINT,
    AnnotationColumn,
    Kind,
    column_key,
    is_digest,
)
from layercache.cache.format.cache_spec import Name, sha256_json
from layercache.cache.format.typed_json import STRICT, load_json, parse_fields
from layercache.cache.storage.base import FileSource, Store
from layercache.cache.storage.local import LocalStore
from layercache.cache.storage.lock import file_lock
from layercache.errors import CacheCorruptError, StorageError

INDEX = f"{FOLDER}/columns.json"
LOCK = f"{FOLDER}/.lock"
LABEL = "label"
"""Name of the column with the dataset's own label."""
MAX_RETRIES = 20
ColumnDigest = Annotated[str, Predicate(is_digest)]


@dataclass(frozen=True, kw_only=True)
class ColumnVersion:
    """The current version of a column."""

    __pydantic_config__ = STRICT

    digest: ColumnDigest
    source: Literal["dataset", "table"]
    """Who wrote it: an extraction, from the dataset, or `annotate`, from a table."""
    kind: Kind
    """Kind of its values."""
    classes: Annotated[int, Ge(0)]
    """Number of its classes."""

    @classmethod
    def of(cls, column: AnnotationColumn, *, source: Literal["dataset", "table"]) -> Self:
        """Return the version of a column."""
        return cls(
            digest=column.digest, source=source, kind=column.kind, classes=len(column.classes)
        )


@dataclass(frozen=True, kw_only=True)
class AnnotationIndex:
    """The current version of every column, by name, in the order in which they were added."""

    __pydantic_config__ = STRICT

    columns: Mapping[Name, ColumnVersion] = field(default_factory=dict)
    dataset_label: ColumnDigest | None = None
    """Version of the dataset's own label, also where a table has replaced it."""

    @property
    def n_classes(self) -> int:
        """Number of classes of the label; 0 without a label."""
        return self.columns[LABEL].classes if LABEL in self.columns else 0

    @property
    def digests(self) -> dict[str, str]:
        """Digest of every column."""
        return {name: version.digest for name, version in self.columns.items()}

    @property
    def files(self) -> list[str]:
        """Keys of the files of all columns, that of a replaced label among them."""
        digests = [*self.digests.values(), self.dataset_label]
        return [column_key(digest) for digest in dict.fromkeys(digests) if digest]

    def to_bytes(self) -> bytes:
        """Return JSON that carries its own checksum."""
        value = asdict(self)
        return (json.dumps({**value, "sha256": sha256_json(value)}, indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Self:
        """Return what `to_bytes` was called on.

        Raises:
            CacheCorruptError: A byte differs.
        """
        try:
            value: dict[str, Any] = load_json(data)
            digest = value.pop("sha256")
            if sha256_json(value) != digest:
                raise ValueError("it does not match its own checksum")
            index = parse_fields(cls, value)
            if index.to_bytes() != data:
                raise ValueError("a byte differs")
            return index
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise CacheCorruptError(
                f"{where}: is no list of annotations ({e}): delete the file, then {REANNOTATE_HINT}"
            ) from None


def read_index(files: FileSource) -> AnnotationIndex:
    """Return the current versions of the columns of a cache; none if it has no annotations.

    Raises:
        CacheCorruptError: The list is damaged.
    """
    try:
        data = files.read(INDEX)
    except (FileNotFoundError, NotADirectoryError):
        return AnnotationIndex()
    return AnnotationIndex.from_bytes(data, where=str(files.path(INDEX)))


def merge_indexes(stored: AnnotationIndex, added: AnnotationIndex) -> AnnotationIndex:
    """Return the list with the versions of `added`, and those columns that only `stored` has."""
    return AnnotationIndex(
        columns={**stored.columns, **added.columns},
        dataset_label=added.dataset_label or stored.dataset_label,
    )


def read_column(files: FileSource, digest: str) -> AnnotationColumn:
    """Return a version of a column.

    Raises:
        CacheCorruptError: Its file is missing or damaged.
    """
    key = column_key(digest)
    try:
        data = files.read(key)
    except FileNotFoundError:
        raise CacheCorruptError(f"{files.path(key)} is missing; {REANNOTATE_HINT}") from None
    return AnnotationColumn.from_bytes(data, digest=digest, where=str(files.path(key)))


Change = Callable[[AnnotationIndex], tuple[AnnotationIndex, list[AnnotationColumn]]]
"""From the stored list to the new one, with the columns whose files it needs."""


def update_index(store: Store, change: Change) -> AnnotationIndex:
    """Change the list of the columns of a cache, also while other writers do so.

    Args:
        store: The folder of the cache.
        change: Called with the stored list, again if another writer was faster.

    Returns:
        The list that is stored now.

    Raises:
        CacheCorruptError: The stored list is damaged.
        StorageError: The cache is not writable, or the endpoint fails.
    """
    root = store.path(".")
    if isinstance(root, Path):
        locked = LocalStore(root, temporary=f"{FOLDER}/partial")
        with file_lock(root / LOCK, wait=True):
            try:
                index, columns = change(read_index(locked))
                _put_columns(locked, columns)
                locked.put(INDEX, [index.to_bytes()])
            finally:
                locked.remove_temporary()
        return index
    return _replace_if_unchanged(store, change)


def _replace_if_unchanged(store: Any, change: Change) -> AnnotationIndex:
    """Change the list on object storage."""
    for _ in range(MAX_RETRIES):
        try:
            data, etag = store.fetch(INDEX)
            stored = AnnotationIndex.from_bytes(data, where=str(store.path(INDEX)))
        except FileNotFoundError:
            stored, etag = AnnotationIndex(), None
        index, columns = change(stored)
        _put_columns(store, columns)
        parts = [index.to_bytes()]
        if etag is None:
            done = store.put_if_absent(INDEX, parts)
        else:
            done = store.replace_if_match(INDEX, parts, etag)
        if done is not None or read_index(store) == index:
            return index
    raise StorageError(
        f"{store.path(INDEX)}: other writers changed it {MAX_RETRIES} times meanwhile: run the "
        "same command again"
    )


def _put_columns(store: Store, columns: list[AnnotationColumn]) -> None:
    for column in columns:
        # also where it exists: it may be damaged, and this is how it is repaired
        store.put(column.key, [column.data])
