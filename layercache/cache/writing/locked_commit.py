"""Committing a row block in a folder, whose lock keeps other writers out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from layercache.cache.format.layout import SplitLayout
from layercache.cache.format.records import BlockRecord
from layercache.cache.storage.base import Part
from layercache.cache.storage.local import LocalStore
from layercache.cache.storage.local_file import make_dir, sync, translate_errors
from layercache.cache.storage.lock import file_lock


class LockedCommit:
    """Commits the row blocks of a split in a folder: the shard appears, then its record."""

    exclusive = True

    def __init__(self, store: LocalStore, layout: SplitLayout) -> None:
        self.store = store
        self._layout = layout

    def lock(self, *, wait: bool) -> AbstractContextManager[None]:
        """Hold the split's lock file. Raises CacheBusyError unless `wait`."""
        return file_lock(self.store.path(self._layout.lock), wait=wait)

    def check_endpoint(self, key: str, data: bytes) -> None:
        """Do nothing: a folder has all that this strategy needs."""

    @contextmanager
    def scratch_folder(self) -> Iterator[Path]:
        """Make a new folder for temporary files.

        Its name is new, since zarr's threads may still write below that of a failed run.
        """
        folder = self.store.path(self.store.temporary)
        with translate_errors(self.store.root):
            folder.mkdir(parents=True, exist_ok=True)
            yield Path(tempfile.mkdtemp(dir=folder))

    def adopt_folder(self, folder: Path, key: str) -> bool:
        """Sync a folder made in `scratch_folder` and rename it; return False if `key` exists."""
        target = self.store.path(key)
        if target.exists():
            return False
        for path in folder.rglob("*"):
            sync(path)
        sync(folder)
        folder.rename(target)
        sync(target.parent)
        return True

    def discard(self, blocks: Sequence[int]) -> None:
        """Remove shards and records of these blocks durably.

        A new record must not be taken for that of an old shard.
        """
        for block in blocks:
            self.store.delete(self._layout.record(block))
            self.store.delete(self._layout.shard(block))
        for key in (self._layout.tokens, self._layout.commits):
            folder = self.store.path(key)
            make_dir(folder)
            sync(folder)

    def commit(self, record: BlockRecord, parts: Sequence[Part]) -> BlockRecord:
        """Put the shard, then its record, in place of any that exist; return the record."""
        self.store.put_in_order(
            {
                self._layout.shard(record.block): parts,
                self._layout.record(record.block): [record.to_bytes()],
            }
        )
        return record

    def reconcile(self, records: Mapping[int, BlockRecord]) -> dict[int, BlockRecord]:
        """Return the records as they are: no other writer changes them under the lock."""
        return dict(records)
