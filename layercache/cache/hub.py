"""A data set repository of the Hugging Face Hub as a place to push whole caches to and pull them from; nothing is extracted or probed there.

Files go up in commits of many. What the Hub says of a file (the SHA-256 of a large one, git's SHA-1 of a small one) shows that it arrived whole,
without fetching it again. Credentials are huggingface_hub's own: HF_TOKEN, or `hf auth login`.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from layercache.cache.storage.base import FileInfo, Part, Readable, views
from layercache.cache.storage.paths import RemotePath
from layercache.cache.storage.threads import in_threads
from layercache.errors import MissingExtraError, OptionError, StorageError

_HTTP = ("requests", "urllib3", "httpx", "httpx2", "httpcore")
"""Packages by which releases of huggingface_hub speak to the Hub, whose errors reach the caller."""


class HubStore:
    """A folder of a repository. Raises MissingExtraError without the extra hf; StorageError, from each call, for faults."""

    batch_bytes = 32 * 2**20
    readers = 1
    requests = 8
    uploads = 4

    def __init__(self, root: RemotePath) -> None:
        self.root = root
        try:
            import huggingface_hub  # noqa: F401
        except ImportError:
            raise MissingExtraError("huggingface_hub", "hf") from None

    @cached_property
    def _api(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi(library_name="layercache")

    def path(self, key: str) -> RemotePath:
        """The address of a key."""
        return self.root if key == "." else self.root / key

    def threads(self, nbytes: int) -> int:
        """How many are worth their start for reading so many bytes."""
        return self.requests

    def put_all(self, items: Mapping[str, bytes], *, message: str) -> None:
        """Put several in one commit; the repository is made (private) if there is none."""
        from huggingface_hub import CommitOperationAdd

        with self.faults("."):
            self._api.create_repo(
                self.root.bucket, repo_type="dataset", private=True, exist_ok=True
            )
            operations = [
                CommitOperationAdd(path_in_repo=self._name(key), path_or_fileobj=io.BytesIO(data))
                for key, data in items.items()
            ]
            self._api.create_commit(
                self.root.bucket, operations, commit_message=message, repo_type="dataset"
            )

    def holds(self, entry: FileInfo | None, data: bytes) -> bool:
        """Whether what the Hub says of a file is so of these bytes."""
        if entry is None or entry.size != len(data):
            return False
        git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        return entry.tag in (hashlib.sha256(data).hexdigest(), git)

    def put(self, key: str, parts: Sequence[Part]) -> None:
        """A commit of one file."""
        self.put_all({key: b"".join(views(parts))}, message=f"layercache: {key}")

    def read(self, key: str) -> bytes:
        """All bytes of a file. Raises FileNotFoundError."""
        with self.faults(key), tempfile.TemporaryDirectory(prefix="layercache-") as folder:
            return Path(
                self._api.hf_hub_download(
                    self.root.bucket, self._name(key), repo_type="dataset", local_dir=folder
                )
            ).read_bytes()

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """All bytes of each that is there, several at a time."""
        there = self.entries(".")
        asked = [key for key in keys if key in there]
        found: dict[str, bytes] = {}
        in_threads(lambda key: found.__setitem__(key, self.read(key)), asked, threads=self.requests)
        return {key: found[key] for key in asked}

    def entries(self, folder: str) -> dict[str, FileInfo]:
        """Every file below a folder, sorted by key."""
        from huggingface_hub.errors import (
            EntryNotFoundError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )

        prefix, found = self._name("" if folder == "." else folder), {}
        cut = len(self.root.key) + 1 if self.root.key else 0
        with self.faults(folder):
            try:
                for item in self._api.list_repo_tree(
                    self.root.bucket, prefix or None, recursive=True, repo_type="dataset"
                ):
                    if (size := getattr(item, "size", None)) is not None:  # a folder has none
                        found[item.path[cut:]] = FileInfo(
                            size, item.lfs.sha256 if item.lfs else item.blob_id
                        )
            except LocalEntryNotFoundError:
                raise
            except (EntryNotFoundError, RepositoryNotFoundError):
                return {}
        return dict(sorted(found.items()))

    def folders(self, folder: str) -> list[str]:
        """Names of the folders right in a folder, sorted."""
        below = "" if folder == "." else f"{folder}/"
        return sorted(
            {
                key[len(below) :].partition("/")[0]
                for key in self.entries(folder)
                if "/" in key[len(below) :]
            }
        )

    def list(self, folder: str) -> list[str]:
        """The keys of `entries`."""
        return list(self.entries(folder))

    def has_folder(self, folder: str) -> bool:
        """Whether any file is below it."""
        return bool(self.entries(folder))

    def look(self, key: str) -> FileInfo:
        """What `entries` would say of a file. Raises FileNotFoundError."""
        entry = self.entries(key.rpartition("/")[0] or ".").get(key)
        if entry is None:
            raise FileNotFoundError(str(self.path(key)))
        return entry

    def size(self, key: str) -> int | None:
        """Length in bytes, or None if there is no such file."""
        try:
            return self.look(key).size
        except FileNotFoundError:
            return None

    @contextmanager
    def faults(self, key: str) -> Iterator[None]:
        """Turns what huggingface_hub raises into StorageError or FileNotFoundError, without its text: an address in it may hold a token."""
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            LocalTokenNotFoundError,
        )

        again, log_in = (
            "run the same command again",
            "log in (hf auth login) or set HF_TOKEN, and look at what it may do",
        )
        try:
            yield
        except LocalTokenNotFoundError:
            raise StorageError(
                f"{self.path(key)}: no token for the Hugging Face Hub: {log_in}"
            ) from None
        except LocalEntryNotFoundError:
            raise StorageError(
                f"{self.path(key)}: the Hugging Face Hub cannot be reached: {again}"
            ) from None
        except EntryNotFoundError:
            raise FileNotFoundError(str(self.path(key))) from None
        except HfHubHTTPError as e:
            status = getattr(e.response, "status_code", None)
            raise StorageError(
                f"{self.path(key)}: the Hugging Face Hub answers {status}: {log_in if status in (401, 403, 404) else again}"
            ) from None
        except Exception as e:
            if type(e).__module__.partition(".")[0] not in _HTTP:
                raise
            raise StorageError(
                f"{self.path(key)}: the Hugging Face Hub cannot be reached ({type(e).__name__}): {again}"
            ) from None

    @contextmanager
    def lock(self, key: str, *, wait: bool = False) -> Iterator[None]:
        """Nobody is kept out."""
        yield

    def create(self, key: str, parts: Sequence[Part]) -> bool:
        """Not here."""
        self._refuse()

    def open(self, key: str) -> Readable:
        """Not here."""
        self._refuse()

    def delete(self, key: str) -> None:
        """Not here."""
        self._refuse()

    def delete_tree(self) -> None:
        """Not here."""
        self._refuse()

    def zarr(self, key: str) -> dict[str, Any]:
        """Not here."""
        self._refuse()

    def scratch_folder(self) -> Any:
        """Not here."""
        self._refuse()

    def move_in(self, folder: Path, key: str) -> bool:
        """Not here."""
        self._refuse()

    def sync_folders(self, folders: Sequence[str]) -> None:
        """A commit is durable."""

    def sweep(self) -> None:
        """A commit is whole."""

    def _name(self, key: str) -> str:
        return f"{self.root.key}/{key}".strip("/")

    def _refuse(self) -> NoReturn:
        raise OptionError(
            f"{self.root}: the Hugging Face Hub is for keeping caches: bring this one here with `layercache cache pull {self.root}`"
        )
