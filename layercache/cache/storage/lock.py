"""Keeping other processes out: flock on a file, which the kernel frees when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from layercache.errors import CacheBusyError

_POLL_SECONDS = 0.2

_held: set[int] = set()
"""Descriptors of held locks. A forked child would share them, and keep a lock alive after its parent was killed: so it closes its copies."""


def _drop_locks() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_drop_locks)


@contextmanager
def held(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a file's flock; its folder must be there. Raises CacheBusyError unless `wait`."""
    while (fd := _try_lock(path)) is None:
        if not wait:
            text = f"{path}: {_holder(path)} is writing this split; wait for it to end, or stop it and run the command again"
            raise CacheBusyError(text)
        time.sleep(_POLL_SECONDS)
    _held.add(fd)
    try:
        with suppress(OSError):
            os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        # Emptied, not removed: a removed lock file could be locked twice. Empty, it is the same in every run.
        with suppress(OSError):
            os.ftruncate(fd, 0)
        _held.discard(fd)
        os.close(fd)


def _try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock, or None if another has it (or removed the file while we opened it)."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino == path.stat().st_ino:
            os.ftruncate(fd, 0)
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return None


def _holder(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace") or "another process"
    return "another process"
