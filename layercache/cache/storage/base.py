"""The protocol of a store: read ranges, put, create, list, stat, delete.

A folder (local.py) and an S3 prefix (s3.py) fulfil all of it.

Keys are relative paths with "/" between the parts; "." is the root itself. A put appears whole or
not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from layercache.cache.storage.paths import CachePath

Part = Any
"""Anything with a contiguous buffer: bytes, numpy array."""


@dataclass(frozen=True)
class FileInfo:
    """Size and version of a file."""

    size: int
    """Bytes."""
    etag: str = ""
    """Changes with the bytes; "" in a folder."""
    modified: float = 0.0
    """Seconds since 1970."""
    regular: bool = True
    """False for a pipe, device or folder in the place of a file."""


class Readable(Protocol):
    """A file open for reading ranges; a context manager."""

    path: str
    """Path or address, for messages."""
    size: int
    """Bytes."""

    @property
    def identity(self) -> tuple[str | int, ...]:
        """A value that changes when the file is replaced or written to."""

    def read_into(self, offset: int, buffers: Sequence[Part]) -> None:
        """Fill the buffers with consecutive bytes from `offset`.

        Raises EOFError if the file ends before.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class FileSource(Protocol):
    """Files to list and to read whole: a store, or a repository of the Hugging Face Hub."""

    requests: int
    """Number of short requests to have under way at the same time."""
    transfers: int
    """Number of whole row blocks to fetch or put at the same time."""

    @property
    def root(self) -> CachePath:
        """The folder or address that keys are relative to."""

    def path(self, key: str) -> CachePath:
        """Return the path or address of a key."""

    def read(self, key: str) -> bytes:
        """Return all bytes of a file. Raises FileNotFoundError."""

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return all bytes of each of the files that exists."""

    def list_files(self, folder: str) -> dict[str, FileInfo]:
        """Return every file below a folder, sorted by key; empty if there is no such folder."""

    def list_dirs(self, folder: str) -> list[str]:
        """Return the sorted names of the folders directly in a folder; [] if it does not exist."""

    def has_dir(self, folder: str) -> bool:
        """Return whether the folder exists."""

    def stat(self, key: str) -> FileInfo | None:
        """Return size, etag and time of a file, as `list_files` does; None if it does not exist."""


class Store(FileSource, Protocol):
    """A place to read ranges from and to put bytes."""

    remote: bool
    """True if the bytes travel over a network."""
    batch_bytes: int
    """Bytes to read and check at a time in one thread."""
    readers: int
    """Number of row blocks to read at the same time, with one thread each."""

    def threads(self, nbytes: int) -> int:
        """Return the number of threads to use for a read of this size."""

    def open(self, key: str) -> Readable:
        """Open a file for reading ranges. Raises FileNotFoundError."""

    def put(self, key: str, parts: Sequence[Part]) -> None:
        """Store the concatenated parts under `key`, atomically and durably."""

    def create(self, key: str, parts: Sequence[Part]) -> bool:
        """Put the parts only if `key` does not exist yet; return whether it was created."""

    def delete(self, key: str) -> None:
        """Remove a file if it exists."""

    def delete_all(self) -> None:
        """Remove every file of the store."""

    def remove_temporary(self) -> None:
        """Remove temporary files that a killed process left, where the store has any."""


def is_plain_key(key: str) -> bool:
    """Return whether a key stays below its root: a relative path without empty parts or dots."""
    return key.isprintable() and "\\" not in key and not {"", ".", ".."} & set(key.split("/"))


def byte_views(parts: Sequence[Part]) -> list[memoryview]:
    """Return the parts as views of bytes, without the empty ones."""
    views = [memoryview(part) for part in parts]
    return [view.cast("B") for view in views if view.nbytes]
