"""A folder of this machine as a store.

A put is seen whole or not at all, also after a power cut: the bytes go to a temporary file, are synced, renamed into place, and the folder is
synced.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from layercache.cache.storage.base import FileInfo, Part
from layercache.cache.storage.local_file import OpenFile, sync, write_all
from layercache.cache.storage.lock import held
from layercache.cache.storage.threads import available_cores
from layercache.errors import StorageError

MAX_THREADS = 8
MAX_READERS = 4
BYTES_PER_THREAD = 2 * 2**20
"""A thread more is worth its start from here on."""

_REFUSALS = {
    errno.ENOSPC,
    errno.EFBIG,
    errno.EIO,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
}
_SERIAL = itertools.count()


class LocalStore:
    """A folder. `scratch` is the folder, relative to it, that takes temporary files; nobody else may use it."""

    batch_bytes = 2**20
    """Chunks are read and checked in batches of about this size: their crc32c is then taken from the processor's cache."""
    requests = 1
    uploads = 1

    def __init__(self, root: Path, *, scratch: str = "partial") -> None:
        self.root = root
        self.readers = min(MAX_READERS, available_cores())
        self.partial = scratch

    def path(self, key: str) -> Path:
        """The file behind a key."""
        return self.root / key

    def threads(self, nbytes: int) -> int:
        """How many are worth their start for reading so many bytes."""
        return min(MAX_THREADS, available_cores(), -(-nbytes // BYTES_PER_THREAD))

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
        return OpenFile(
            f"{self.root}/{key}"
        )  # no pathlib: a hundred thousand short reads would notice

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """All bytes of each that is there."""
        found = {}
        for key in keys:
            with suppress(FileNotFoundError, NotADirectoryError):
                found[key] = self.read(key)
        return found

    def entries(self, folder: str) -> dict[str, FileInfo]:
        """Every file below a folder, sorted by key."""
        found = {}
        for parent, _, names in os.walk(self.path(folder)):
            for name in names:
                file = os.path.join(parent, name)
                with suppress(FileNotFoundError):  # gone since it was listed
                    stat = os.stat(file)
                    found[Path(file).relative_to(self.root).as_posix()] = FileInfo(
                        size=stat.st_size, modified=stat.st_mtime
                    )
        return dict(sorted(found.items()))

    def folders(self, folder: str) -> list[str]:
        """Names of the folders right in a folder, sorted."""
        try:
            return sorted(entry.name for entry in os.scandir(self.path(folder)) if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def list(self, folder: str) -> list[str]:
        """Keys of the files below a folder, sorted."""
        return list(self.entries(folder))

    def has_folder(self, folder: str) -> bool:
        """Whether there is one."""
        return self.path(folder).is_dir()

    def delete(self, key: str) -> None:
        """Remove a file if it is there."""
        self.path(key).unlink(missing_ok=True)

    def delete_tree(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.root)

    def zarr(self, key: str) -> dict[str, Any]:
        """How zarr.open_array is told of a key."""
        return {"store": self.path(key)}

    def faults(self, key: str) -> AbstractContextManager[None]:
        """A disk's faults are told by zarr."""
        return nullcontext()

    @contextmanager
    def scratch_folder(self) -> Iterator[Path]:
        """A new folder for temporary files: threads of zarr may still be writing below that of a run that has just failed."""
        folder = self.path(self.partial)
        with self.refusals(self.root):
            folder.mkdir(parents=True, exist_ok=True)
            yield Path(tempfile.mkdtemp(dir=folder))

    def move_in(self, folder: Path, key: str) -> bool:
        """Rename a folder made in `scratch_folder`; False where something is there."""
        target = self.path(key)
        if target.exists():
            return False
        folder.rename(target)
        sync(target.parent)
        return True

    def sync_folders(self, folders: Sequence[str]) -> None:
        """Make the deletions in these folders durable."""
        for folder in folders:
            self._make_folder(self.path(folder))
            sync(self.path(folder))

    def look(self, key: str) -> FileInfo:
        """Length and time of a file."""
        stat = self.path(key).stat()
        return FileInfo(size=stat.st_size, modified=stat.st_mtime)

    def size(self, key: str) -> int | None:
        """Length in bytes, or None if there is no such file."""
        try:
            return self.path(key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sweep(self) -> None:
        """Remove what a killed process left in the scratch folder."""
        shutil.rmtree(self.path(self.partial), ignore_errors=True)

    @contextmanager
    def lock(self, key: str, *, wait: bool = False) -> Iterator[None]:
        """Hold a file's flock. Raises CacheBusyError unless `wait`."""
        path = self.path(key)
        with ExitStack() as stack:
            with self.refusals(path):
                self._make_folder(path.parent)
                stack.enter_context(held(path, wait=wait))
            yield

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
                "Get leave to write there (or choose another folder with --cache)"
                if forbidden
                else "Make room (or choose another disk with --cache)"
            )
            raise StorageError(
                f"{target}: cannot be written: {e.strerror or e}. Nothing half written was committed; the row blocks committed before are kept. "
                f"{remedy} and run the same command again: it continues."
            ) from e

    def _write_temporary(self, parts: Sequence[Part]) -> Path:
        folder = self.path(self.partial)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{socket.gethostname()}-{os.getpid()}-{next(_SERIAL)}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            write_all(fd, parts)
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
