"""A prefix of an S3 bucket as a store.

An object is put whole or not at all, and seen by everyone when its put returns. There are no locks; what may be there already is put on condition
(`create`, `swap`), which exactly one of several writers meets. Every request costs a round trip, so lists and small objects are fetched many at a
time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from layercache.cache.storage.base import FileInfo, Part, Readable, views
from layercache.cache.storage.paths import RemotePath
from layercache.cache.storage.read_cache import Spool
from layercache.cache.storage.s3_client import UnsupportedError, client, faults, insist
from layercache.cache.storage.s3_file import ObjectFile
from layercache.cache.storage.threads import in_threads
from layercache.errors import StorageError

MAX_THREADS = 32
"""Requests under way at a time: one connection carries some 50 to 100 MB/s, a network of 10 Gbit/s more than a gigabyte."""
BYTES_PER_THREAD = 2**20
"""A request more is worth its latency from here on."""

_CONDITIONAL: set[str] = set()
"""Buckets that were seen to refuse a second put."""
_NO_SWAP: set[str] = set()
"""Buckets whose endpoint refuses a put on condition of an etag."""


class ObjectStore:
    """The objects whose keys begin with an address. Raises MissingExtraError without the extra s3; StorageError, from each call, for faults."""

    batch_bytes = 4 * 2**20
    """Of one request; 32 of them are under way at most."""
    requests = MAX_THREADS
    uploads = 4
    readers = MAX_THREADS

    def __init__(self, root: RemotePath) -> None:
        self.root = root
        client(root.bucket)
        self._lock = Lock()
        self._listed: dict[str, dict[str, FileInfo]] = {}
        self.spool: Spool | None = None
        """Where ranges that were read are kept."""
        self.seen: dict[str, str] = {}
        """Key -> etag of what was last put, fetched or looked at there, so that a list tells whether somebody else has put something since."""

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"])  # type: ignore[misc]

    def path(self, key: str) -> RemotePath:
        """The address of a key."""
        return self.root if key == "." else self.root / key

    def threads(self, nbytes: int) -> int:
        """How many are worth their start for reading so many bytes."""
        return min(MAX_THREADS, -(-nbytes // BYTES_PER_THREAD))

    def put(self, key: str, parts: Sequence[Part]) -> None:
        """Store the parts under `key`, whatever is there."""
        self._put(key, parts, "overwrite")

    def create(self, key: str, parts: Sequence[Part]) -> bool:
        """As `put`, but only if there is nothing yet; False if there is.

        Where the answer to a put was lost and it was sent again, the object that is there may be one's own: look at it.
        """
        from obstore.exceptions import AlreadyExistsError

        try:
            self._put(key, parts, "create")
        except AlreadyExistsError:
            return False
        return True

    def require_conditions(self, key: str, parts: Sequence[Part]) -> None:
        """Create what is there already, once in a process. Raises StorageError if that succeeds: the endpoint ignores the condition."""
        if self.root.bucket not in _CONDITIONAL and self.create(key, parts):
            raise StorageError(
                f"{self.path(key)}: the endpoint ignores conditional puts (If-None-Match), without which two writers could spoil a cache: "
                "extract to a folder and copy the cache with `layercache cache push`, or use an endpoint that has them"
            )
        _CONDITIONAL.add(self.root.bucket)

    def swap(self, key: str, parts: Sequence[Part], tag: str) -> bool:
        """Replace the object that has this etag; False if another is there by now, or none.

        Where the endpoint has no such put (OpenStack Swift), it is looked at, removed and created: of two writers that do so within one round
        trip, the later one may remove what the earlier one put.
        """
        from obstore.exceptions import PreconditionError

        if self.root.bucket not in _NO_SWAP:
            try:
                self._put(key, parts, {"e_tag": tag})
                return True
            except (PreconditionError, FileNotFoundError):
                return False
            except UnsupportedError:
                _NO_SWAP.add(self.root.bucket)
        if self.tag(key) not in (tag, ""):
            return False
        self.delete(key)
        return self.create(key, parts)

    def read(self, key: str) -> bytes:
        """All bytes of an object. Raises FileNotFoundError."""
        return self.fetch(key)[0]

    def fetch(self, key: str) -> tuple[bytes, str]:
        """All bytes of an object, and its etag. Raises FileNotFoundError."""
        import obstore

        def get() -> tuple[bytes, str]:
            found = obstore.get(client(self.root.bucket), self._name(key))
            return found.bytes().to_bytes(), str(found.meta["e_tag"])

        with faults(self.path(key)):
            data, self.seen[key] = insist(get)
        return data, self.seen[key]

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """All bytes of each that is there, many at a time."""
        found: dict[str, bytes] = {}

        def fetch(key: str) -> None:
            with suppress(FileNotFoundError):
                found[key] = self.read(key)

        asked = list(keys)
        in_threads(fetch, asked, threads=MAX_THREADS)
        return {key: found[key] for key in asked if key in found}

    def open(self, key: str) -> Readable:
        """For range reads. The first in a folder lists it, which says the length and etag of all. Raises FileNotFoundError."""
        folder = key.rpartition("/")[0]
        with self._lock:
            if folder not in self._listed:
                self._listed[folder] = self.entries(folder)
            entry = self._listed[folder].get(key)
            if entry is None:  # put since then, or not there
                entry = self._listed[folder][key] = self.look(key)
        return ObjectFile(self, key, entry)

    def read_range(self, key: str, tag: str, start: int, length: int) -> memoryview:
        """Bytes of the object that had this etag when it was listed. Raises FileNotFoundError, EOFError, StorageError if it was replaced."""
        import obstore

        def get() -> tuple[memoryview, str]:
            found = obstore.get(
                client(self.root.bucket),
                self._name(key),
                options={"range": (start, start + length)},
            )
            return memoryview(found.bytes()), str(found.meta["e_tag"])

        with faults(self.path(key)):
            data, there = insist(get)
        if there != tag:
            with self._lock:
                self._listed.clear()
            raise StorageError(
                f"{self.path(key)}: was replaced while it was being read: run the same command again"
            )
        if len(data) < length:
            raise EOFError(f"ends at byte {start + len(data)}")
        return data

    def entries(self, folder: str) -> dict[str, FileInfo]:
        """Every object below a folder, sorted by key: one request for every thousand."""
        import obstore

        prefix = self._name("" if folder == "." else folder)
        cut = len(self.root.key) + 1 if self.root.key else 0
        with faults(self.path(folder)):
            pages = insist(lambda: list(obstore.list(client(self.root.bucket), prefix or None)))
        found = {
            o["path"][cut:]: FileInfo(o["size"], str(o["e_tag"]), o["last_modified"].timestamp())
            for page in pages
            for o in page
        }
        return dict(sorted(found.items()))

    def folders(self, folder: str) -> list[str]:
        """Names of the prefixes right in a folder, sorted."""
        import obstore

        with faults(self.path(folder)):
            found = insist(
                lambda: obstore.list_with_delimiter(
                    client(self.root.bucket), self._name("" if folder == "." else folder) or None
                )
            )
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"])

    def list(self, folder: str) -> list[str]:
        """Keys of the objects below a folder, sorted."""
        return list(self.entries(folder))

    def has_folder(self, folder: str) -> bool:
        """Whether there is any object below it."""
        import obstore

        with faults(self.path(folder)):
            return insist(
                lambda: any(
                    obstore.list(client(self.root.bucket), self._name(folder), chunk_size=1)
                )
            )

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        import obstore

        with faults(self.path(key)), suppress(FileNotFoundError):
            obstore.delete(client(self.root.bucket), self._name(key))

    def delete_tree(self) -> None:
        """Remove everything, many objects in one request."""
        import obstore

        with faults(self.root):
            keys = [self._name(key) for key in self.entries(".")]
            insist(lambda: obstore.delete(client(self.root.bucket), keys))

    def size(self, key: str) -> int | None:
        """Length in bytes, or None if there is no such object."""
        try:
            return self.look(key).size
        except FileNotFoundError:
            return None

    def zarr(self, key: str) -> dict[str, Any]:
        """How zarr.open_array is told of a key: zarr's own store over obstore."""
        from zarr.storage import ObjectStore as ZarrStore

        return {
            "store": ZarrStore(client(self.root.bucket), read_only=True),
            "path": self._name(key),
        }

    def faults(self, key: str) -> AbstractContextManager[None]:
        """As of the other calls."""
        return faults(self.path(key))

    @contextmanager
    def lock(self, key: str, *, wait: bool = False) -> Iterator[None]:
        """Nobody is kept out: `claim` says why two writers do each other no harm."""
        yield

    @contextmanager
    def scratch_folder(self) -> Iterator[Path]:
        """A new folder of this machine."""
        with tempfile.TemporaryDirectory(prefix="layercache-") as name:
            yield Path(name)

    def move_in(self, folder: Path, key: str) -> bool:
        """Objects are put one by one."""
        return False

    def sync_folders(self, folders: Sequence[str]) -> None:
        """A deletion is durable when it returns."""

    def sweep(self) -> None:
        """A put that was cut off leaves nothing."""

    def _name(self, key: str) -> str:
        return f"{self.root.key}/{key}".strip("/")

    def tag(self, key: str) -> str:
        """The etag of an object, "" if there is none."""
        try:
            return self.look(key).tag
        except FileNotFoundError:
            return ""

    def look(self, key: str) -> FileInfo:
        """What a list would say of an object. Raises FileNotFoundError."""
        import obstore

        with faults(self.path(key)):
            found = obstore.head(client(self.root.bucket), self._name(key))
        self.seen[key] = str(found["e_tag"])
        return FileInfo(found["size"], self.seen[key], found["last_modified"].timestamp())

    def _put(self, key: str, parts: Sequence[Part], mode: Any) -> None:
        import obstore

        data = (
            parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(views(parts))
        )
        with faults(self.path(key)):
            done = obstore.put(
                client(self.root.bucket, uploads=True),
                self._name(key),
                data,
                mode=mode,
                use_multipart=False,
            )
        self.seen[key] = str(done["e_tag"])
