"""Keeping other writers out of a folder: flock on a file.

The kernel frees it when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from layercache.cache.storage.local_file import make_dir, open_regular, translate_errors
from layercache.cache.storage.paths import CachePath
from layercache.errors import CacheBusyError, CacheCorruptError

_POLL_S = 0.2
_HOLDER = re.compile(rb"(process \d+ on [^\0-\x1f/]{1,255})?")
"""Contents of a lock file: who holds it, or nothing."""

_locked_fds: set[int] = set()
"""Descriptors of held locks. A forked child shares them and would keep a lock alive after its
parent was killed: so it closes its copies."""


def _drop_locks() -> None:
    while _locked_fds:
        os.close(_locked_fds.pop())


os.register_at_fork(after_in_child=_drop_locks)


@contextmanager
def file_lock(path: CachePath, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file at `path`.

    An address takes no lock: object storage has none, see writing/conditional_commit.py.

    Raises:
        CacheBusyError: Another process holds it and `wait` is False.
        CacheCorruptError: The file at `path` is no lock file: a symbolic link, a pipe, or a file
            with other contents, which stays as it is.
        StorageError: The folder is not writable.
    """
    if not isinstance(path, Path):
        yield
        return
    with translate_errors(path):
        make_dir(path.parent)
        fd = _acquire(path, wait=wait)
    _locked_fds.add(fd)
    try:
        with suppress(OSError):
            os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        # Emptied, not removed: a removed lock file could be locked twice. Empty, it is the same in
        # every run.
        with suppress(OSError):
            os.ftruncate(fd, 0)
        _locked_fds.discard(fd)
        os.close(fd)


def _acquire(path: Path, *, wait: bool) -> int:
    """Return a descriptor that holds the lock."""
    while (fd := _try_lock(path)) is None:
        if not wait:
            raise CacheBusyError(
                f"{path}: {_holder(path)} is writing this split; wait for it to end, or stop it "
                "and run the command again"
            )
        time.sleep(_POLL_S)
    return fd


def _try_lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock, or None if another process has it.

    Also None if another process removed the file meanwhile.
    """
    fd = open_regular(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino == path.lstat().st_ino:
            _check_contents(path, fd)  # it may be a hard link to another file
            os.ftruncate(fd, 0)
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _check_contents(path: Path, fd: int) -> None:
    if not _HOLDER.fullmatch(os.pread(fd, 512, 0)):
        raise CacheCorruptError(
            f"{path}: expected an empty lock file, got a file with other contents: move it "
            "elsewhere and run the same command again"
        )


def _holder(path: Path) -> str:
    with suppress(OSError, CacheCorruptError):
        fd = open_regular(path, os.O_RDONLY)
        try:
            contents = os.pread(fd, 512, 0)
        finally:
            os.close(fd)
        if contents and _HOLDER.fullmatch(contents):
            return contents.decode(errors="replace")
    return "another process"
