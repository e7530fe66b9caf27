"""Files of this machine: opening, reading ranges, writing, syncing, errors of a full disk."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from layercache.cache.storage.base import Part, byte_views
from layercache.errors import CacheCorruptError, StorageError

MAX_BUFFERS = 512
"""Buffers of one preadv or writev; Linux allows 1024."""
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EDQUOT}
_IRREGULAR = {errno.ELOOP, errno.ENXIO, errno.EISDIR}
"""Errors of opening a symbolic link that is not followed, a socket or pipe, a folder."""


class LocalFile:
    """A regular file open for reading ranges; a context manager.

    Raises FileNotFoundError or CacheCorruptError, see `open_regular`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = open_regular(path, os.O_RDONLY)
        self._stat = os.fstat(self._fd)
        self.size = self._stat.st_size

    @property
    def identity(self) -> tuple[str | int, ...]:
        """A value that changes when the file is replaced or written to."""
        s = self._stat
        return self.path, s.st_dev, s.st_ino, s.st_mtime_ns, s.st_size

    def read_into(self, offset: int, buffers: Sequence[Part]) -> None:
        """Fill the buffers with consecutive bytes from `offset`.

        Raises EOFError if the file ends before.
        """
        for i in range(0, len(buffers), MAX_BUFFERS):
            batch = byte_views(buffers[i : i + MAX_BUFFERS])
            while batch:
                n_read = _preadv(self._fd, batch, offset)
                if n_read == 0:
                    raise EOFError(f"ends at byte {offset}")
                offset += n_read
                batch = _advance(batch, n_read)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def open_regular(path: str | Path, flags: int, mode: int = 0o666) -> int:
    """Return a descriptor of a regular file, opened without blocking.

    Args:
        path: The file.
        flags: As of os.open. A symbolic link is followed only to read.
        mode: Permissions of a file that is made.

    Raises:
        CacheCorruptError: It is a pipe, a device, a folder or, to be written, a symbolic link: a
            cache from elsewhere must not block a command or lead it to other files.
    """
    nofollow = os.O_NOFOLLOW if flags & (os.O_WRONLY | os.O_RDWR) else 0
    try:
        fd = os.open(path, flags | nofollow | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as e:
        if e.errno not in _IRREGULAR:
            raise
        raise _not_regular(path) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _not_regular(path)
    return fd


def _not_regular(path: str | Path) -> CacheCorruptError:
    kind = "a symbolic link" if os.path.islink(path) else "a pipe, device or folder"
    return CacheCorruptError(
        f"{path}: expected a regular file, got {kind}: remove it and run the same command again"
    )


def write_all(fd: int, parts: Sequence[Part]) -> None:
    """Write the concatenated parts."""
    views = byte_views(parts)
    for i in range(0, len(views), MAX_BUFFERS):
        batch = views[i : i + MAX_BUFFERS]
        while batch:
            batch = _advance(batch, os.writev(fd, batch))


def sync(path: Path) -> None:
    """Fsync a file or folder."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_dir(folder: Path) -> None:
    """Make a folder and its parents durably."""
    if folder.is_dir():
        return
    make_dir(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
    sync(folder.parent)


@contextmanager
def translate_errors(target: Path) -> Iterator[None]:
    """Turn the errors of a disk that is full or not writable into StorageError."""
    try:
        yield
    except OSError as e:
        if isinstance(e, StorageError) or e.errno not in _FORBIDDEN | _NO_ROOM:
            raise
        if e.errno in _FORBIDDEN:
            remedy = "Get write permission (or choose another root, --cache)"
        else:
            remedy = "Free some space (or choose a root on another disk, --cache)"
        raise StorageError(
            f"{target}: cannot be written: {e.strerror or e}. No partly written file was "
            "committed; the row blocks committed before are kept. "
            f"{remedy} and run the same command again: it continues."
        ) from e


def _pread_one(fd: int, buffers: list[memoryview], offset: int) -> int:
    """Fill a part of the first buffer: in place of preadv on systems without it (macOS)."""
    data = os.pread(fd, buffers[0].nbytes, offset)
    buffers[0][: len(data)] = data
    return len(data)


_preadv = getattr(os, "preadv", _pread_one)


def _advance(buffers: list[memoryview], n_done: int) -> list[memoryview]:
    """Return what is left of the buffers after the first `n_done` bytes."""
    for i, buffer in enumerate(buffers):
        if n_done < buffer.nbytes:
            return [buffer[n_done:], *buffers[i + 1 :]]
        n_done -= buffer.nbytes
    return []
