"""A prefix of an S3 bucket as a store.

An object is put whole or not at all, and is visible to everyone when its put returns. There are no
locks; what may exist already is put on a condition (`put_if_absent`, `replace_if_match`), which
exactly one of several writers meets. Every request costs a round trip, so lists and small objects
are fetched many at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any

from layercache.cache.storage.base import FileInfo, Part, byte_views
from layercache.cache.storage.paths import RemotePath
from layercache.cache.storage.s3_client import UnsupportedError, client, retry, translate_errors
from layercache.cache.storage.s3_file import S3File
from layercache.cache.storage.threads import in_threads
from layercache.errors import StorageError

MAX_THREADS = 32
"""Requests under way at a time: one connection carries 50 to 100 MB/s, a network of 10 Gbit/s more
than a gigabyte."""
BYTES_PER_THREAD = 2**20
"""Bytes from which a further request saves more time than its latency."""

_no_conditional_replace: set[str] = set()
"""Buckets whose endpoint refuses a put on the condition of an etag."""


class S3Store:
    """The objects whose keys begin with an address.

    Raises MissingExtraError without the extra s3. Every call raises StorageError when the endpoint
    fails.
    """

    remote = True
    batch_bytes = 4 * 2**20
    """Size of one request; up to 32 of them run at once."""
    requests = MAX_THREADS
    transfers = 4
    readers = MAX_THREADS

    def __init__(self, root: RemotePath) -> None:
        self.root = root
        client(root.bucket)
        self._lock = Lock()
        self._listed: dict[str, dict[str, FileInfo]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"])  # type: ignore[misc]

    def path(self, key: str) -> RemotePath:
        """Return the address of a key."""
        return self.root if key == "." else self.root / key

    def threads(self, nbytes: int) -> int:
        """Return the number of threads to use for a read of this size."""
        return min(MAX_THREADS, -(-nbytes // BYTES_PER_THREAD))

    def read(self, key: str) -> bytes:
        """Return all bytes of an object. Raises FileNotFoundError."""
        return self.fetch(key)[0]

    def fetch(self, key: str) -> tuple[bytes, str]:
        """Return all bytes of an object and its etag. Raises FileNotFoundError."""
        import obstore

        def get() -> tuple[bytes, str]:
            response = obstore.get(client(self.root.bucket), self._name(key))
            return response.bytes().to_bytes(), str(response.meta["e_tag"])

        with translate_errors(self.path(key)):
            return retry(get)

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return all bytes of each of the objects that exists, many at a time."""
        contents: dict[str, bytes] = {}

        def fetch(key: str) -> None:
            with suppress(FileNotFoundError):
                contents[key] = self.read(key)

        requested = list(keys)
        in_threads(fetch, requested, threads=MAX_THREADS)
        return {key: contents[key] for key in requested if key in contents}

    def open(self, key: str) -> S3File:
        """Open an object for reading ranges.

        The first call in a folder lists it, for the sizes of all. Raises FileNotFoundError.
        """
        folder = key.rpartition("/")[0]
        with self._lock:
            if folder not in self._listed:
                self._listed[folder] = self.list_files(folder)
            info = self._listed[folder].get(key) or self.stat(key)  # it may have been put since
            if info is None:
                raise FileNotFoundError(str(self.path(key)))
            self._listed[folder][key] = info
        return S3File(str(self.path(key)), info, partial(self._read_range, key, info.etag))

    def _read_range(self, key: str, etag: str, start: int, length: int) -> memoryview:
        """Return bytes of the object that had this etag when it was listed.

        Raises EOFError, StorageError if it was replaced.
        """
        import obstore

        def get() -> tuple[memoryview, str]:
            options: Any = {"range": (start, start + length)}
            response = obstore.get(client(self.root.bucket), self._name(key), options=options)
            return memoryview(response.bytes()), str(response.meta["e_tag"])

        with translate_errors(self.path(key)):
            data, current_etag = retry(get)
        if current_etag != etag:
            with self._lock:
                self._listed.clear()
            raise StorageError(
                f"{self.path(key)}: was replaced while it was being read: run the same command "
                "again"
            )
        if len(data) < length:
            raise EOFError(f"ends at byte {start + len(data)}")
        return data

    def list_files(self, folder: str) -> dict[str, FileInfo]:
        """Return every object below a folder, sorted by key: one request for every thousand."""
        import obstore

        prefix = self._name("" if folder == "." else folder)
        cut = len(self.root.key) + 1 if self.root.key else 0
        with translate_errors(self.path(folder)):
            pages = retry(lambda: list(obstore.list(client(self.root.bucket), prefix or None)))
        infos = {item["path"][cut:]: _info(item) for page in pages for item in page}
        return dict(sorted(infos.items()))

    def list_dirs(self, folder: str) -> list[str]:
        """Return the names of the prefixes directly in a folder, sorted."""
        import obstore

        prefix = self._name("" if folder == "." else folder) or None
        with translate_errors(self.path(folder)):
            listing = retry(lambda: obstore.list_with_delimiter(client(self.root.bucket), prefix))
        return sorted(name.rstrip("/").rpartition("/")[2] for name in listing["common_prefixes"])

    def has_dir(self, folder: str) -> bool:
        """Return whether any object is below the folder."""
        import obstore

        name = self._name("" if folder == "." else folder) or None
        with translate_errors(self.path(folder)):
            return retry(lambda: any(obstore.list(client(self.root.bucket), name, chunk_size=1)))

    def stat(self, key: str) -> FileInfo | None:
        """Return size, etag and time of an object, or None if it does not exist."""
        import obstore

        try:
            with translate_errors(self.path(key)):
                return _info(obstore.head(client(self.root.bucket), self._name(key)))
        except FileNotFoundError:
            return None

    def put(self, key: str, parts: Sequence[Part]) -> None:
        """Store the parts under `key`, whether it exists or not."""
        self._put(key, parts, "overwrite")

    def create(self, key: str, parts: Sequence[Part]) -> bool:
        """Put the parts only if `key` does not exist yet; return whether it was created."""
        return self.put_if_absent(key, parts) is not None

    def put_if_absent(self, key: str, parts: Sequence[Part]) -> str | None:
        """Put the parts only if `key` does not exist yet; return the etag, or None if it exists.

        A put that is retried because its answer was lost may collide with itself: compare the
        contents.
        """
        from obstore.exceptions import AlreadyExistsError

        try:
            return self._put(key, parts, "create")
        except AlreadyExistsError:
            return None

    def replace_if_match(self, key: str, parts: Sequence[Part], etag: str) -> str | None:
        """Replace the object that has this etag; return the new etag.

        None if another object, or none, exists by now.

        Where the endpoint has no such put (OpenStack Swift), the object is compared, removed and
        created: of two writers that do so within one round trip, the later one may remove what the
        earlier one put.
        """
        from obstore.exceptions import PreconditionError

        if self.root.bucket not in _no_conditional_replace:
            try:
                return self._put(key, parts, {"e_tag": etag})
            except (PreconditionError, FileNotFoundError):
                return None
            except UnsupportedError:
                _no_conditional_replace.add(self.root.bucket)
        info = self.stat(key)
        if info is not None and info.etag != etag:
            return None
        self.delete(key)
        return self.put_if_absent(key, parts)

    def _put(self, key: str, parts: Sequence[Part], mode: Any) -> str:
        """Put the parts; return the etag."""
        import obstore

        whole = len(parts) == 1 and isinstance(parts[0], bytes)
        with translate_errors(self.path(key)):
            response = obstore.put(
                client(self.root.bucket, uploads=True),
                self._name(key),
                parts[0] if whole else b"".join(byte_views(parts)),
                mode=mode,
                use_multipart=False,
            )
        return str(response["e_tag"])

    def delete(self, key: str) -> None:
        """Remove an object if it exists."""
        import obstore

        with translate_errors(self.path(key)), suppress(FileNotFoundError):
            obstore.delete(client(self.root.bucket), self._name(key))

    def delete_all(self) -> None:
        """Remove every object, many in one request."""
        import obstore

        with translate_errors(self.root):
            names = [self._name(key) for key in self.list_files(".")]
            retry(lambda: obstore.delete(client(self.root.bucket), names))

    def remove_temporary(self) -> None:
        """Do nothing: an interrupted put leaves no object."""

    def _name(self, key: str) -> str:
        """Return the key in the bucket."""
        return f"{self.root.key}/{key}".strip("/")


def _info(item: Any) -> FileInfo:
    """Return size, etag and time of an object as obstore describes it."""
    return FileInfo(item["size"], str(item["e_tag"]), item["last_modified"].timestamp())
