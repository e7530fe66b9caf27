"""From a path or an address to its store."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from layercache.cache.storage.base import FileSource, Store
from layercache.cache.storage.paths import CachePath
from layercache.errors import OptionError


def open_store(path: CachePath) -> Store:
    """Open a folder or an S3 prefix to read ranges and to write.

    Raises:
        OptionError: The address is of the Hugging Face Hub, which only keeps copies of caches.
        MissingExtraError: The package that reaches the address is not installed.
    """
    if isinstance(path, Path):
        from layercache.cache.storage.local import LocalStore

        return LocalStore(path)
    if path.scheme == "hf":
        raise OptionError(
            f"{path}: the Hugging Face Hub only keeps copies of caches, so work on one in a "
            f"folder: `layercache cache pull {quote(str(path))}` brings this one here, "
            "`layercache cache push` sends one there"
        )
    from layercache.cache.storage.s3 import S3Store

    return S3Store(path)


def open_source(path: CachePath) -> FileSource:
    """Open a folder, an S3 prefix or a repository of the Hugging Face Hub to list and read files.

    Raises:
        MissingExtraError: The package that reaches the address is not installed.
    """
    if not isinstance(path, Path) and path.scheme == "hf":
        from layercache.cache.storage.hub import HubRepository

        return HubRepository(path)
    return open_store(path)
