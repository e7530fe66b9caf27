"""A dataset repository of the Hugging Face Hub, which keeps copies of caches.

Nothing is extracted to it or probed from it.

Files are uploaded in commits of many. The digest that the Hub gives of a file (SHA-256 of a large
one, git's SHA-1 of a small one) shows that it arrived whole, without fetching it again. Credentials
are huggingface_hub's own: HF_TOKEN, or `hf auth login`.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from layercache.cache.storage.base import FileInfo
from layercache.cache.storage.paths import RemotePath
from layercache.cache.storage.threads import map_threads
from layercache.errors import MissingExtraError, StorageError

_HTTP_PACKAGES = ("requests", "urllib3", "httpx", "httpx2", "httpcore")
"""Packages that some release of huggingface_hub uses for requests, and whose errors reach the
caller."""


class HubRepository:
    """A folder of a repository.

    Raises MissingExtraError without the extra hf. Every call raises StorageError when the Hub
    fails.
    """

    requests = 8
    transfers = 4

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
        """Return the address of a key."""
        return self.root if key == "." else self.root / key

    def read(self, key: str) -> bytes:
        """Return all bytes of a file. Raises FileNotFoundError."""
        with (
            self._translate_errors(key),
            tempfile.TemporaryDirectory(prefix="layercache-") as folder,
        ):
            file = self._api.hf_hub_download(
                self.root.bucket, self._name(key), repo_type="dataset", local_dir=folder
            )
            return Path(file).read_bytes()

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return all bytes of each of the files that exists, several at a time."""
        existing = self.list_files(".")
        requested = [key for key in keys if key in existing]
        return dict(
            zip(requested, map_threads(self.read, requested, threads=self.requests), strict=True)
        )

    def list_files(self, folder: str) -> dict[str, FileInfo]:
        """Return every file below a folder, sorted by key; empty if it does not exist."""
        from huggingface_hub.errors import (
            EntryNotFoundError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )

        prefix = self._name("" if folder == "." else folder)
        cut = len(self.root.key) + 1 if self.root.key else 0
        infos = {}
        with self._translate_errors(folder):
            try:
                for item in self._api.list_repo_tree(
                    self.root.bucket, prefix or None, recursive=True, repo_type="dataset"
                ):
                    if (size := getattr(item, "size", None)) is not None:  # a folder has none
                        digest = item.lfs.sha256 if item.lfs else item.blob_id
                        infos[item.path[cut:]] = FileInfo(size, digest)
            except LocalEntryNotFoundError:
                raise
            except (EntryNotFoundError, RepositoryNotFoundError):
                return {}
        return dict(sorted(infos.items()))

    def list_dirs(self, folder: str) -> list[str]:
        """Return the names of the folders directly in a folder, sorted."""
        prefix = "" if folder == "." else f"{folder}/"
        rests = [key.removeprefix(prefix) for key in self.list_files(folder)]
        return sorted({rest.partition("/")[0] for rest in rests if "/" in rest})

    def has_dir(self, folder: str) -> bool:
        """Return whether any file is below the folder."""
        return bool(self.list_files(folder))

    def stat(self, key: str) -> FileInfo | None:
        """Return size and digest of a file, or None if it does not exist."""
        return self.list_files(key.rpartition("/")[0] or ".").get(key)

    def upload(self, files: Mapping[str, bytes], *, message: str) -> None:
        """Upload files in one commit; make the repository, private, if it does not exist."""
        from huggingface_hub import CommitOperationAdd

        with self._translate_errors("."):
            self._api.create_repo(
                self.root.bucket, repo_type="dataset", private=True, exist_ok=True
            )
            operations = [
                CommitOperationAdd(path_in_repo=self._name(key), path_or_fileobj=io.BytesIO(data))
                for key, data in files.items()
            ]
            self._api.create_commit(
                self.root.bucket, operations, commit_message=message, repo_type="dataset"
            )

    @contextmanager
    def _translate_errors(self, key: str) -> Iterator[None]:
        """Turn errors of huggingface_hub into StorageError or FileNotFoundError.

        Their text is left out: an address in it may hold a token.
        """
        from huggingface_hub import constants
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            LocalTokenNotFoundError,
        )

        path = self.path(key)
        unset = "unset HF_HUB_OFFLINE and " if constants.HF_HUB_OFFLINE else ""
        retry = f"{unset}run the same command again"
        log_in = "log in (hf auth login) or set HF_TOKEN, and check its permissions"
        try:
            yield
        except LocalTokenNotFoundError:
            raise StorageError(f"{path}: no token for the Hugging Face Hub: {log_in}") from None
        except LocalEntryNotFoundError:
            raise StorageError(f"{path}: the Hugging Face Hub cannot be reached: {retry}") from None
        except EntryNotFoundError:
            raise FileNotFoundError(str(path)) from None
        except HfHubHTTPError as e:
            status = getattr(e.response, "status_code", None)
            remedy = log_in if status in (401, 403, 404) else retry
            raise StorageError(f"{path}: the Hugging Face Hub answers {status}: {remedy}") from None
        except Exception as e:
            if type(e).__module__.partition(".")[0] not in _HTTP_PACKAGES:
                raise
            raise StorageError(
                f"{path}: the Hugging Face Hub cannot be reached ({type(e).__name__}): {retry}"
            ) from None

    def _name(self, key: str) -> str:
        """Return the path in the repository."""
        return f"{self.root.key}/{key}".strip("/")


def has_digest(info: FileInfo | None, data: bytes) -> bool:
    """Return whether the size and digest that the Hub gives of a file are those of these bytes."""
    if info is None or info.size != len(data):
        return False
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return info.etag in (hashlib.sha256(data).hexdigest(), git)
