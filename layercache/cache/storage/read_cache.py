"""What was read from an object store, kept on the local disk, so that the next epoch does not go over the network.

Each object has a sparse file in a folder of this process, in which the ranges that were fetched lie where they lie in the object; a changed object
(another etag) is another file. A range is checked against its crc32c by the reader the first time, as it comes from the network.

The budget: what does not fit is read from the network every time. While epoch follows epoch over the same blocks in new orders, it is best to keep
some of them for good: evicting the one that was not used for longest would keep a half of the data and find a seventh of it (each block is read
once an epoch, at random places). So room is made only of what belongs to an earlier selection (`turn`), the longest unused first.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from layercache.cache.storage.base import Part
from layercache.cache.storage.local_file import OpenFile, write_all

_PREFIX = "layercache-spool-"
_LOCK = "lock"


@dataclass
class _Kept:
    """What is there of one object."""

    file: Path
    turn: int
    bounds: list[int] = field(default_factory=list)
    """Ascending: begin, end, begin, end ... of the ranges that are there."""
    size: int = 0
    """Bytes of them."""

    def has(self, start: int, stop: int) -> bool:
        """Whether the whole range is there."""
        i = bisect_right(self.bounds, start)
        return i % 2 == 1 and self.bounds[i] >= stop

    def add(self, start: int, stop: int) -> None:
        """The range is there from now on."""
        i, j = bisect_left(self.bounds, start), bisect_right(self.bounds, stop)
        self.bounds[i:j] = ([start] if i % 2 == 0 else []) + ([stop] if j % 2 == 0 else [])
        self.size = sum(self.bounds[1::2]) - sum(self.bounds[::2])


class Spool:
    """A folder below `parent` (default: the system's for temporary files) with at most `budget` bytes; removed when the process ends.

    One that a killed process left is removed by the next one that is made there.
    """

    def __init__(
        self, *, budget: int, parent: Path | None = None, say: Callable[[str], object] | None = None
    ) -> None:
        """say: told, once, if the disk refuses to keep more."""
        self.budget = budget
        self._say = say or (lambda _: None)
        self.used = 0
        """Bytes that are there."""
        self.broken: str | None = None
        """Why nothing more is kept: the disk refused."""
        base = Path(parent or tempfile.gettempdir())
        _sweep(base)
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        fd = os.open(self.folder / "new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        (self.folder / "new").rename(
            self.folder / _LOCK
        )  # held from the moment when others may look at it
        self.close = weakref.finalize(self, _remove, self.folder, fd, os.getpid())
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._turn = 0
        self._serial = 0
        self._lock = Lock()

    def turn(self) -> None:
        """Another selection is read from now on: what is kept may go where room is needed, until it is read again."""
        with self._lock:
            self._turn += 1

    def read_into(
        self, object: Hashable, offset: int, buffers: Sequence[Part], length: int
    ) -> bool:
        """Fill the buffers with a range of an object; False if not all of it is here. `object`: address and etag."""
        with self._lock:
            kept = self._kept.get(object)
            if kept is None or not kept.has(offset, offset + length):
                return False
            kept.turn = self._turn
            self._kept.move_to_end(object)
            try:
                file = OpenFile(str(kept.file))  # open, it can be read even if it is evicted now
            except OSError:
                self._drop(object)
                return False
        with file:
            file.read_into(offset, buffers)
        return True

    def keep(self, object: Hashable, offset: int, data: Part) -> None:
        """Keep a range of an object, if there is room for it."""
        with self._lock:
            if self.broken or not self._make_room(data.nbytes):
                return
            kept = self._kept.get(object)
            if kept is None:
                self._serial += 1
                kept = self._kept[object] = _Kept(self.folder / str(self._serial), self._turn)
            if kept.has(offset, offset + data.nbytes):
                return
            self.used += data.nbytes  # before it is there: another thread may want room meanwhile
        try:
            fd = os.open(kept.file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.lseek(fd, offset, os.SEEK_SET)
                write_all(fd, [data])
            finally:
                os.close(fd)
        except OSError as e:
            with self._lock:
                self.used -= data.nbytes
                first, self.broken = self.broken is None, e.strerror or str(e)
            if first:
                self._say(
                    f"nothing more is kept in {self.folder}: {self.broken}; what is not there is read over the network"
                )
            return
        with self._lock:
            before = kept.size
            kept.turn = self._turn
            if self._kept.get(object) is kept:
                kept.add(offset, offset + data.nbytes)
            else:
                kept.file.unlink(missing_ok=True)  # evicted while it was being written
            self.used += kept.size - before - data.nbytes

    def _make_room(self, nbytes: int) -> bool:
        for object in [o for o, kept in self._kept.items() if kept.turn < self._turn]:
            if self.used + nbytes <= self.budget:
                break
            self._drop(object)
        return self.used + nbytes <= self.budget

    def _drop(self, object: Hashable) -> None:
        kept = self._kept.pop(object)
        self.used -= kept.size
        kept.file.unlink(missing_ok=True)


def _remove(folder: Path, fd: int, pid: int) -> None:
    if os.getpid() == pid:  # a forked child has no part in it
        shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)


def _sweep(base: Path) -> None:
    """Remove the folders whose process has ended: the kernel has freed their locks."""
    for folder in base.glob(f"{_PREFIX}*"):
        try:
            fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # another user's, or just being made
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)
