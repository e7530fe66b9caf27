"""Ranges that were read over a network, kept on the local disk for the next epoch.

Each object has a sparse file in a folder of this process, in which the fetched ranges have the same
offsets as in the object; a changed object (another etag) has another file. The reader checks the
crc32c of a range when it is first fetched from the network.

The budget: what does not fit is read from the network every time. While epochs read the same blocks
in new orders, it is best to keep a fixed part of them: evicting the least recently used one would
keep half of the data and serve a seventh of the reads from it (each block is read once an epoch, at
random places). So only what belongs to an earlier selection (`new_generation`) is evicted, the
least recently used first.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import weakref
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Self

from layercache.cache.storage.base import Part, Readable, byte_views
from layercache.cache.storage.local_file import LocalFile, open_regular, write_all
from layercache.errors import CacheCorruptError

logger = logging.getLogger(__name__)

_PREFIX = "layercache-spool-"
_LOCK = "lock"


@dataclass
class _CachedRanges:
    """The ranges of one object that are on the disk."""

    file: Path
    generation: int
    bounds: list[int] = field(default_factory=list)
    """Ascending: start, end, start, end ... of the ranges."""
    size: int = 0
    """Bytes of all ranges."""

    def contains(self, start: int, stop: int) -> bool:
        """Return whether the whole range is on the disk."""
        i = bisect_right(self.bounds, start)
        return i % 2 == 1 and self.bounds[i] >= stop

    def add(self, start: int, stop: int) -> None:
        """Count the range as being on the disk."""
        i, j = bisect_left(self.bounds, start), bisect_right(self.bounds, stop)
        self.bounds[i:j] = ([start] if i % 2 == 0 else []) + ([stop] if j % 2 == 0 else [])
        self.size = sum(self.bounds[1::2]) - sum(self.bounds[::2])


class ReadCache:
    """A folder of ranges with at most `budget` bytes; removed when the process ends.

    It is made below `parent`, by default the system's folder for temporary files.

    A folder that a killed process left is removed by the next ReadCache that is made next to it.
    """

    budget: int
    """Maximum number of bytes on the disk."""
    used: int
    """Number of bytes on the disk."""
    failure: str | None
    """Error of the disk after which nothing more is kept, or None."""

    def __init__(self, *, budget: int, parent: Path | None = None) -> None:
        self.budget = budget
        self.used = 0
        self.failure = None
        base = Path(parent or tempfile.gettempdir())
        _remove_orphans(base)
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        # Locked under another name: when others find the lock file, it is already held.
        fd = open_regular(self.folder / "new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        (self.folder / "new").rename(self.folder / _LOCK)
        self.close = weakref.finalize(self, _remove, self.folder, fd, os.getpid())
        self._objects: OrderedDict[Hashable, _CachedRanges] = OrderedDict()
        self._generation = 0
        self._serial = 0
        self._lock = Lock()

    def new_generation(self) -> None:
        """Announce that another selection is read from now on.

        What is kept may be evicted, until it is read again.
        """
        with self._lock:
            self._generation += 1

    def read_into(self, identity: Hashable, offset: int, buffers: Sequence[Part]) -> bool:
        """Fill the buffers with a range of an object; return False if not all of it is kept."""
        length = sum(memoryview(buffer).nbytes for buffer in buffers)
        with self._lock:
            ranges = self._objects.get(identity)
            if ranges is None or not ranges.contains(offset, offset + length):
                return False
            ranges.generation = self._generation
            self._objects.move_to_end(identity)
            try:
                file = LocalFile(str(ranges.file))  # open, it can be read even if it is evicted now
            except OSError:
                self._evict(identity)
                return False
        with file:
            file.read_into(offset, buffers)
        return True

    def keep(self, identity: Hashable, offset: int, buffers: Sequence[Part]) -> None:
        """Keep a range of an object, if there is room for it."""
        length = sum(memoryview(buffer).nbytes for buffer in buffers)
        with self._lock:
            if self.failure or not self._make_room(length):
                return
            ranges = self._objects.get(identity)
            if ranges is None:
                self._serial += 1
                ranges = _CachedRanges(self.folder / str(self._serial), self._generation)
                self._objects[identity] = ranges
            if ranges.contains(offset, offset + length):
                return
            self.used += length  # before it is written: another thread may need room meanwhile
        try:
            fd = open_regular(ranges.file, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.lseek(fd, offset, os.SEEK_SET)
                write_all(fd, buffers)
            finally:
                os.close(fd)
        except OSError as e:
            self._fail(e, length)
            return
        with self._lock:
            before = ranges.size
            ranges.generation = self._generation
            if self._objects.get(identity) is ranges:
                ranges.add(offset, offset + length)
            else:
                ranges.file.unlink(missing_ok=True)  # evicted while it was being written
            self.used += ranges.size - before - length

    def _fail(self, error: OSError, length: int) -> None:
        """Stop keeping ranges, and log it once."""
        with self._lock:
            self.used -= length
            is_first = self.failure is None
            self.failure = error.strerror or str(error)
        if is_first:
            logger.warning(
                "nothing more is kept in %s: %s; the rest is read over the network",
                self.folder,
                self.failure,
            )

    def _make_room(self, nbytes: int) -> bool:
        """Evict ranges of earlier generations until `nbytes` fit; return whether they do."""
        evictable = [i for i, r in self._objects.items() if r.generation < self._generation]
        for identity in evictable:
            if self.used + nbytes <= self.budget:
                break
            self._evict(identity)
        return self.used + nbytes <= self.budget

    def _evict(self, identity: Hashable) -> None:
        ranges = self._objects.pop(identity)
        self.used -= ranges.size
        ranges.file.unlink(missing_ok=True)


class CachedFile:
    """A file whose ranges are read from a `ReadCache`, or else kept in it; a context manager."""

    def __init__(self, file: Readable, cache: ReadCache) -> None:
        self._file, self._cache = file, cache
        self.path, self.size, self.identity = file.path, file.size, file.identity

    def read_into(self, offset: int, buffers: Sequence[Part]) -> None:
        """Fill the buffers with consecutive bytes from `offset`.

        Raises EOFError if the file ends before.
        """
        views = byte_views(buffers)
        if views and not self._cache.read_into(self.identity, offset, views):
            self._file.read_into(offset, views)
            self._cache.keep(self.identity, offset, views)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.__exit__(*_)


def _remove(folder: Path, fd: int, pid: int) -> None:
    if os.getpid() == pid:  # a forked child does not own the folder
        shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)


def _remove_orphans(base: Path) -> None:
    """Remove the folders whose process has ended: the kernel has freed their locks."""
    for folder in base.glob(f"{_PREFIX}*"):
        try:
            fd = open_regular(folder / _LOCK, os.O_RDWR)
        except (OSError, CacheCorruptError):
            continue  # another user's, or just being made
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)
