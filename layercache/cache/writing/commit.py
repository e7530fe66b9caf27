"""Commit strategies for row blocks: under a lock in a folder, by conditional puts on S3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from layercache.cache.format.compressor import Compressor
from layercache.cache.format.layout import SplitLayout
from layercache.cache.format.records import BlockRecord
from layercache.cache.storage.base import Part, Store
from layercache.cache.storage.local import LocalStore
from layercache.cache.storage.paths import CachePath
from layercache.cache.storage.s3 import S3Store
from layercache.cache.writing.conditional_commit import ConditionalCommit
from layercache.cache.writing.locked_commit import LockedCommit
from layercache.errors import OptionError


class CommitStrategy(Protocol):
    """Commits the row blocks of one split in one kind of store."""

    exclusive: bool
    """True if nobody else writes the split while its lock is held."""

    @property
    def store(self) -> Store:
        """The folder or address of the cache."""

    def lock(self, *, wait: bool) -> AbstractContextManager[None]:
        """Keep other writers of the split out, where the store can.

        Raises CacheBusyError unless `wait`.
        """

    def check_endpoint(self, key: str, data: bytes) -> None:
        """Raise StorageError if the store cannot do what this strategy needs; `key` exists."""

    def scratch_folder(self) -> AbstractContextManager[Path]:
        """Make a new folder of this machine for temporary files."""

    def adopt_folder(self, folder: Path, key: str) -> bool:
        """Move a folder made in `scratch_folder` into place in one step.

        Returns False if the store cannot do that, or if `key` exists.
        """

    def discard(self, blocks: Sequence[int]) -> None:
        """Remove what earlier writers left of these blocks, which are not committed.

        Only where it could be mistaken for something new.
        """

    def commit(self, record: BlockRecord, parts: Sequence[Part]) -> BlockRecord:
        """Commit a shard, given as its parts, and its record; return the record that is stored."""

    def reconcile(self, records: Mapping[int, BlockRecord]) -> dict[int, BlockRecord]:
        """Return the records that are stored now for these blocks.

        Raises StorageError if one is no longer whole.
        """


def open_commit(
    path: CachePath, layout: SplitLayout, *, compressor: Compressor | None
) -> CommitStrategy:
    """Return the strategy for a cache in a folder or on object storage.

    Raises:
        OptionError: The address is of the Hugging Face Hub.
    """
    if isinstance(path, Path):
        return LockedCommit(LocalStore(path, temporary=layout.partial), layout)
    if path.scheme == "hf":
        raise OptionError(
            f"{path}: expected a folder or an s3:// address to extract to; `layercache cache push` "
            "then copies the cache to "
            "the Hugging Face Hub"
        )
    return ConditionalCommit(S3Store(path), layout, compressor=compressor)
