"""Files of this machine: ranges into given buffers, many buffers in one call, fsync."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from layercache.cache.storage.base import Part, views

_IOV = 512


class OpenFile:
    """A file open for reading ranges; a context manager. Raises FileNotFoundError."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._stat = os.fstat(self._fd)
        self.size = self._stat.st_size

    @property
    def identity(self) -> tuple[str | int, ...]:
        """Changes when the file is replaced or written to."""
        s = self._stat
        return self.path, s.st_dev, s.st_ino, s.st_mtime_ns, s.st_size

    def read_into(self, offset: int, buffers: Sequence[Part]) -> None:
        """Fill the buffers with consecutive bytes from `offset`. Raises EOFError if the file ends before."""
        for i in range(0, len(buffers), _IOV):
            batch = views(buffers[i : i + _IOV])
            while batch:
                got = _preadv(self._fd, batch, offset)
                if got == 0:
                    raise EOFError(f"ends at byte {offset}")
                offset += got
                batch = _advance(batch, got)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def sync(path: Path) -> None:
    """Fsync a file or folder."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _pread_one(fd: int, buffers: list[memoryview], offset: int) -> int:
    """In place of preadv where the system has none (macOS): fills a part of the first buffer."""
    data = os.pread(fd, buffers[0].nbytes, offset)
    buffers[0][: len(data)] = data
    return len(data)


_preadv = getattr(os, "preadv", _pread_one)


def _advance(buffers: list[memoryview], done: int) -> list[memoryview]:
    """What is left of the buffers after the first `done` bytes."""
    for i, b in enumerate(buffers):
        if done < b.nbytes:
            return [b[done:], *buffers[i + 1 :]]
        done -= b.nbytes
    return []


def write_all(fd: int, parts: Sequence[Part]) -> None:
    """Write the concatenated parts."""
    every = views(parts)
    for i in range(0, len(every), _IOV):
        batch = every[i : i + _IOV]
        while batch:
            batch = _advance(batch, os.writev(fd, batch))
