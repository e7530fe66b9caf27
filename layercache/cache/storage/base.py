"""Where bytes lie: atomic puts, range reads, lists. The few calls that the cache needs of a folder (local.py) or an object store (objects.py).

Keys are relative paths with "/" between the parts. A put is seen whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from layercache.cache.storage.paths import CachePath

Part = Any
"""Anything with a contiguous buffer: bytes, numpy array."""


@dataclass(frozen=True)
class FileInfo:
    """What a list says of a file."""

    size: int
    """Bytes."""
    tag: str = ""
    """Of an object store its etag, which changes with the bytes."""
    modified: float = 0.0
    """Seconds since 1970."""


class Readable(Protocol):
    """A file open for reading ranges; a context manager."""

    path: str
    """For messages."""
    size: int
    """Bytes."""

    @property
    def identity(self) -> tuple[str | int, ...]:
        """Changes when the file is replaced or written to."""

    def read_into(self, offset: int, buffers: Sequence[Part]) -> None:
        """Fill the buffers with consecutive bytes from `offset`. Raises EOFError if the file ends before."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Store(Protocol):
    """A place to put bytes."""

    batch_bytes: int
    """Read and checked at a time by one thread."""
    requests: int
    """Short ones that are worth being under way at the same time."""
    uploads: int
    """Row blocks that are worth being put at the same time."""
    readers: int
    """Row blocks that are worth being read at the same time, with one thread each."""

    @property
    def root(self) -> CachePath:
        """What keys are relative to."""

    def path(self, key: str) -> CachePath:
        """Where the bytes of a key lie, for messages."""

    def threads(self, nbytes: int) -> int:
        """How many are worth their start for reading so many bytes."""

    def put(self, key: str, parts: Sequence[Part]) -> None:
        """Store the concatenated parts under `key`, atomically and durably."""

    def create(self, key: str, parts: Sequence[Part]) -> bool:
        """As `put`, but only if there is nothing yet; False if there is."""

    def read(self, key: str) -> bytes:
        """All bytes. Raises FileNotFoundError."""

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """All bytes of each that is there."""

    def open(self, key: str) -> Readable:
        """For range reads. Raises FileNotFoundError."""

    def entries(self, folder: str) -> dict[str, FileInfo]:
        """Every file below a folder, sorted by key; empty if there is none."""

    def folders(self, folder: str) -> list[str]:
        """Names of the folders right in a folder, sorted; empty if there is none."""

    def list(self, folder: str) -> list[str]:
        """The keys of `entries`."""

    def has_folder(self, folder: str) -> bool:
        """Whether there is one."""

    def delete(self, key: str) -> None:
        """Remove a file if it is there."""

    def delete_tree(self) -> None:
        """Remove everything."""

    def look(self, key: str) -> FileInfo:
        """What `entries` would say of a file. Raises FileNotFoundError."""

    def size(self, key: str) -> int | None:
        """Length in bytes, or None if there is no such key."""

    def zarr(self, key: str) -> dict[str, Any]:
        """How zarr.open_array is told of a key."""

    def faults(self, key: str) -> AbstractContextManager[None]:
        """Around what goes through `zarr`: tells the faults of this place as the other calls do."""

    def lock(self, key: str, *, wait: bool = False) -> AbstractContextManager[None]:
        """Keeps other writers out, where the store can. Raises CacheBusyError unless `wait`."""

    def scratch_folder(self) -> AbstractContextManager[Path]:
        """A new folder of this machine for temporary files."""

    def move_in(self, folder: Path, key: str) -> bool:
        """Put a folder made in `scratch_folder` in place in one step; False where that cannot be done or something is there."""

    def sync_folders(self, folders: Sequence[str]) -> None:
        """Make the deletions in these folders durable."""

    def sweep(self) -> None:
        """Remove what a killed process left half written."""


def open_store(place: CachePath, *, partial: str = "partial") -> Store:
    """The store of a folder or an address. `partial`: the folder below it that takes temporary files, where they are needed.

    Raises MissingExtraError for an address whose package is not installed.
    """
    if isinstance(place, Path):
        from layercache.cache.storage.local import LocalStore

        return LocalStore(place, scratch=partial)
    if place.scheme == "hf":
        from layercache.cache.hub import HubStore

        return HubStore(place)
    from layercache.cache.storage.s3 import ObjectStore

    return ObjectStore(place)


def views(parts: Sequence[Part]) -> list[memoryview]:
    """The parts as bytes, those of no length left out."""
    found = [memoryview(p) for p in parts]
    return [v.cast("B") for v in found if v.nbytes]
