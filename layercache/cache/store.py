"""Where bytes lie: atomic puts, range reads, lists. A folder of this machine; an object store would offer the same few calls.

Keys are relative paths with "/" between the parts. A put is seen whole or not at all, also after a power cut: the bytes go to a temporary
file, are synced, renamed into place, and the folder is synced.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, Self

from layercache.errors import CacheBusyError, StorageError

Part = Any
"""Anything with a contiguous buffer: bytes, numpy array."""

_REFUSALS = {errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_IOV = 512
_POLL_SECONDS = 0.2
_SERIAL = itertools.count()

_held: set[int] = set()
"""Descriptors of held locks. A forked child would share them, and keep a lock alive after its parent was killed: so it closes its copies."""


def _drop_locks() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_drop_locks)


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
            batch = _views(buffers[i : i + _IOV])
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


class Store(Protocol):
    """The calls that the cache needs of a place to put bytes."""

    def put(self, key: str, parts: Sequence[Part]) -> None:
        """Store the concatenated parts under `key`, atomically and durably."""

    def put_in_order(self, items: Mapping[str, Sequence[Part]]) -> None:
        """Put several: a later one is seen only if the earlier ones are."""

    def create(self, key: str, parts: Sequence[Part]) -> bool:
        """As `put`, but only if there is nothing yet; False if there is."""

    def read(self, key: str) -> bytes:
        """All bytes. Raises FileNotFoundError."""

    def open(self, key: str) -> OpenFile:
        """For range reads. Raises FileNotFoundError."""

    def list(self, folder: str) -> list[str]:
        """Keys of the files below a folder, sorted; empty if there is none."""

    def delete(self, key: str) -> None:
        """Remove a file if it is there."""

    def size(self, key: str) -> int | None:
        """Length in bytes, or None if there is no such key."""


class LocalStore:
    """A folder. `scratch` is the folder, relative to it, that takes temporary files; nobody else may use it."""

    def __init__(self, root: Path, *, scratch: str = "partial") -> None:
        self.root = root
        self.scratch = scratch

    def path(self, key: str) -> Path:
        """The file behind a key."""
        return self.root / key

    def put(self, key: str, parts: Sequence[Part]) -> None:
        """Store the parts under `key`: temporary file, fsync, rename, fsync of the folder. Raises StorageError if the disk refuses."""
        self.put_in_order({key: parts})

    def put_in_order(self, items: Mapping[str, Sequence[Part]]) -> None:
        """Put several; when this returns, all are durable. A later one is seen only if the earlier ones are, unless the power fails meanwhile.

        Syncing the files before the first rename and the folders after the last takes half the journal commits that a put each would take.
        """
        first = self.path(next(iter(items)))
        with self.refusals(first):
            temporaries: dict[Path, Path] = {}
            try:
                for key, parts in items.items():
                    temporaries[self.path(key)] = self._write_temporary(parts)
                for temporary in temporaries.values():
                    sync(temporary)
                for target, temporary in temporaries.items():
                    self._make_folder(target.parent)
                    temporary.replace(target)
                for folder in dict.fromkeys(target.parent for target in temporaries):
                    sync(folder)
            finally:
                for temporary in temporaries.values():
                    with suppress(OSError):
                        temporary.unlink(missing_ok=True)

    def create(self, key: str, parts: Sequence[Part]) -> bool:
        """As `put`, but only if there is nothing yet; False if there is."""
        target = self.path(key)
        with self.refusals(target):
            temporary = self._write_temporary(parts)
            try:
                sync(temporary)
                self._make_folder(target.parent)
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as e:
                # Folders without hard links: whoever creates a key writes the same bytes, so a rename loses nothing.
                if e.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise
                if target.exists():
                    return False
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            sync(target.parent)
        return True

    def read(self, key: str) -> bytes:
        """All bytes of a file."""
        return self.path(key).read_bytes()

    def open(self, key: str) -> OpenFile:
        """For range reads."""
        return OpenFile(f"{self.root}/{key}")  # no pathlib: a hundred thousand short reads would notice

    def list(self, folder: str) -> list[str]:
        """Keys of the files below a folder, sorted."""
        return sorted(p.relative_to(self.root).as_posix() for p in self.path(folder).rglob("*") if p.is_file())

    def delete(self, key: str) -> None:
        """Remove a file if it is there."""
        self.path(key).unlink(missing_ok=True)

    def sync_folders(self, folders: Sequence[str]) -> None:
        """Make the deletions in these folders durable."""
        for folder in folders:
            self._make_folder(self.path(folder))
            sync(self.path(folder))

    def size(self, key: str) -> int | None:
        """Length in bytes, or None if there is no such file."""
        try:
            return self.path(key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sweep(self) -> None:
        """Remove what a killed process left in the scratch folder."""
        shutil.rmtree(self.path(self.scratch), ignore_errors=True)

    @contextmanager
    def lock(self, key: str, *, wait: bool = False) -> Iterator[None]:
        """Hold a file's flock: freed by the kernel when the process ends, however it ends. Raises CacheBusyError unless `wait`."""
        path = self.path(key)
        while (fd := self._try_lock(path)) is None:
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

    def _try_lock(self, path: Path) -> int | None:
        """A descriptor that holds the lock, or None if another has it (or removed the file while we opened it)."""
        with self.refusals(path):
            self._make_folder(path.parent)
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

    @contextmanager
    def refusals(self, target: Path) -> Iterator[None]:
        """Turns the errors of a disk that is full or refuses to be written into StorageError."""
        try:
            yield
        except OSError as e:
            if isinstance(e, StorageError) or e.errno not in _REFUSALS:
                raise
            forbidden = e.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
            remedy = (
                "Get leave to write there (or choose another folder with --cache)" if forbidden else "Make room (or choose another disk with --cache)"
            )
            raise StorageError(
                f"{target}: cannot be written: {e.strerror or e}. Nothing half written was committed; the row blocks committed before are kept. "
                f"{remedy} and run the same command again: it continues."
            ) from e

    def _write_temporary(self, parts: Sequence[Part]) -> Path:
        folder = self.path(self.scratch)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{socket.gethostname()}-{os.getpid()}-{next(_SERIAL)}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            _write_all(fd, parts)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        finally:
            os.close(fd)
        return temporary

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
        sync(folder.parent)


def _holder(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace") or "another process"
    return "another process"


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


def _views(parts: Sequence[Part]) -> list[memoryview]:
    views = [memoryview(p) for p in parts]
    return [v.cast("B") for v in views if v.nbytes]


def _write_all(fd: int, parts: Sequence[Part]) -> None:
    views = _views(parts)
    for i in range(0, len(views), _IOV):
        batch = views[i : i + _IOV]
        while batch:
            batch = _advance(batch, os.writev(fd, batch))
