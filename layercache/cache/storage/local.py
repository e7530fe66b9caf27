"""A folder of this machine as a store.

A put appears whole or not at all, also after a power cut: the bytes go to a temporary file, which
is synced and renamed into place; then the folder is synced.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from layercache._devices import available_cores
from layercache.cache.storage.base import FileInfo, Part, is_plain_key
from layercache.cache.storage.local_file import (
    LocalFile,
    make_dir,
    open_regular,
    sync,
    translate_errors,
    write_all,
)
from layercache.errors import CacheCorruptError

MAX_JSON_BYTES = 2**30
"""Largest spec or record; that of ten million row blocks is smaller."""
MAX_THREADS = 8
MAX_READERS = 4
BYTES_PER_THREAD = 2 * 2**20
"""Bytes from which a further thread saves more time than its start takes."""

_SERIAL = itertools.count()


class LocalStore:
    """A folder.

    `temporary` is the folder, relative to it, for temporary files; no other writer may use it.
    """

    remote = False
    batch_bytes = 4 * 2**20
    """Small enough that the crc32c of a chunk is computed from the processor's cache, and so large
    that threads rarely wait for each other to get the interpreter's lock back after a read."""
    requests = 1
    transfers = 1

    def __init__(self, root: Path, *, temporary: str = "partial") -> None:
        self.root = root
        self._cores = available_cores()
        self.readers = min(MAX_READERS, self._cores)
        self.temporary = temporary

    def path(self, key: str) -> Path:
        """Return the file behind a key.

        Raises CacheCorruptError for a key that leaves the folder, as "../x" or "/x" do.
        """
        if key != "." and not is_plain_key(key):
            raise CacheCorruptError(
                f"{self.root}: expected the key of a file below this folder, got {key!r}: the "
                "cache that names it was not written by layercache; do not use it"
            )
        return self.root / key

    def threads(self, nbytes: int) -> int:
        """Return the number of threads to use for a read of this size."""
        return min(MAX_THREADS, self._cores, -(-nbytes // BYTES_PER_THREAD))

    def read(self, key: str) -> bytes:
        """Return all bytes of a file.

        Raises FileNotFoundError, or CacheCorruptError for a pipe and for an absurd size.
        """
        with os.fdopen(open_regular(self.path(key), os.O_RDONLY), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if key.endswith(".json") and size > MAX_JSON_BYTES:
                raise CacheCorruptError(
                    f"{self.path(key)}: expected at most {MAX_JSON_BYTES} bytes, got {size}: the "
                    "file was not written by layercache; delete it and run the same command again"
                )
            return file.read()

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return all bytes of each of the files that exists."""
        contents = {}
        for key in keys:
            with suppress(FileNotFoundError, NotADirectoryError):
                contents[key] = self.read(key)
        return contents

    def open(self, key: str) -> LocalFile:
        """Open a file for reading ranges. Raises FileNotFoundError."""
        # pathlib would take a noticeable part of a hundred thousand short reads
        return LocalFile(f"{self.root}/{key}" if is_plain_key(key) else str(self.path(key)))

    def list_files(self, folder: str) -> dict[str, FileInfo]:
        """Return every file below a folder, sorted by key; empty if there is no such folder."""
        infos = {}
        for parent, _, names in os.walk(self.path(folder)):
            for name in names:
                key = Path(parent, name).relative_to(self.root).as_posix()
                if info := self.stat(key):  # None if it was removed since it was listed
                    infos[key] = info
        return dict(sorted(infos.items()))

    def list_dirs(self, folder: str) -> list[str]:
        """Return the sorted names of the folders directly in a folder; [] if it does not exist."""
        try:
            return sorted(entry.name for entry in os.scandir(self.path(folder)) if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def has_dir(self, folder: str) -> bool:
        """Return whether the folder exists."""
        return self.path(folder).is_dir()

    def stat(self, key: str) -> FileInfo | None:
        """Return size and time of a file, or None if it does not exist."""
        try:
            status = os.stat(f"{self.root}/{key}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return FileInfo(
            size=status.st_size,
            modified=status.st_mtime,
            regular=stat.S_ISREG(status.st_mode),
        )

    def put(self, key: str, parts: Sequence[Part]) -> None:
        """Store the parts under `key`. Raises StorageError if the disk is full or not writable."""
        self.put_in_order({key: parts})

    def put_in_order(self, files: Mapping[str, Sequence[Part]]) -> None:
        """Put several files durably, in order.

        A later one appears only after the earlier ones, unless the power fails meanwhile.

        Syncing all files before the first rename and the folders after the last needs half the
        journal commits of single puts.
        """
        with translate_errors(self.path(next(iter(files)))):
            temporaries: dict[Path, Path] = {}
            try:
                for key, parts in files.items():
                    temporaries[self.path(key)] = self._write_temporary(parts)
                for temporary in temporaries.values():
                    sync(temporary)
                for target, temporary in temporaries.items():
                    make_dir(target.parent)
                    temporary.replace(target)
                for folder in dict.fromkeys(target.parent for target in temporaries):
                    sync(folder)
            finally:
                for temporary in temporaries.values():
                    with suppress(OSError):
                        temporary.unlink(missing_ok=True)

    def create(self, key: str, parts: Sequence[Part]) -> bool:
        """Put the parts only if `key` does not exist yet; return whether it was created."""
        target = self.path(key)
        with translate_errors(target):
            temporary = self._write_temporary(parts)
            try:
                sync(temporary)
                make_dir(target.parent)
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as e:
                # A file system without hard links: whoever creates a key writes the same bytes, so
                # a rename loses nothing.
                if e.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise
                if target.exists():
                    return False
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            sync(target.parent)
        return True

    def delete(self, key: str) -> None:
        """Remove a file if it exists."""
        self.path(key).unlink(missing_ok=True)

    def delete_all(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.root)

    def remove_temporary(self) -> None:
        """Remove what killed processes left in the folder for temporary files."""
        folder = self.path(self.temporary)
        if folder.is_symlink():
            return
        with suppress(OSError):
            for path in list(folder.iterdir()):
                if _is_in_use(path.name):
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            folder.rmdir()

    def _write_temporary(self, parts: Sequence[Part]) -> Path:
        folder = self.path(self.temporary)
        folder.mkdir(parents=True, exist_ok=True)
        temporary, fd = _create_new(folder)
        try:
            write_all(fd, parts)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        finally:
            os.close(fd)
        return temporary


def _create_new(folder: Path) -> tuple[Path, int]:
    """Return a new file and its descriptor; never one that is there, which may be a link."""
    while True:
        path = folder / f"{socket.gethostname()}-{os.getpid()}-{next(_SERIAL)}"
        with suppress(FileExistsError):  # left by a killed process of the same number
            return path, open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def _is_in_use(temporary: str) -> bool:
    """Return whether another process of this machine that still runs has made a temporary file."""
    host, _, rest = temporary.partition(f"{socket.gethostname()}-")
    pid = rest.partition("-")[0]
    if host or not pid.isdecimal() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
