"""Deleting a cache."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from layercache.cache.cache import Cache
from layercache.cache.format.layout import SPEC_KEY, SplitLayout, cache_folder
from layercache.cache.format.result_folders import LOCK, PARENT
from layercache.cache.storage.lock import file_lock
from layercache.cache.storage.paths import CachePath
from layercache.errors import CacheBusyError, OptionError, StorageError


def remove(cache: Cache) -> None:
    """Delete a cache with everything in it, also the probes kept there.

    Raises:
        CacheBusyError: A split is being written or a probe is being trained, in a folder; object
            storage has no locks.
        OptionError: The folder of the cache is a symbolic link.
        StorageError: A file cannot be deleted.
    """
    if isinstance(cache.path, Path) and cache.path.is_symlink():
        raise OptionError(
            f"{cache.path}: expected the folder of a cache, got a symbolic link to "
            f"{cache.path.resolve()}: give that folder, and delete the link yourself"
        )
    store = cache.store
    with ExitStack() as locks:
        for split in cache.spec.dataset.splits:
            locks.enter_context(file_lock(store.path(SplitLayout(cache.spec, split).lock)))
        for name in store.list_dirs(PARENT):
            _check_idle(store.path(f"{PARENT}/{name}/{LOCK}"))
        if isinstance(cache.path, Path):
            _check_deletable(cache.path)
        store.delete(SPEC_KEY)  # first: what is partly deleted is not a cache
        store.delete_all()
    path = cache.path
    if isinstance(path, Path) and path == cache_folder(path.parents[2], cache.spec):
        for folder in path.parents[:2]:
            if folder.is_symlink() or any(folder.iterdir()):
                break
            folder.rmdir()


def _check_deletable(path: Path) -> None:
    """Raise StorageError if a folder may not be changed, before anything is deleted."""
    folders = [path.parent, *(Path(folder) for folder, _, _ in os.walk(path))]
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StorageError(
                f"{path}: cannot be deleted: {folder} is not writable; nothing was deleted. Get "
                "write permission and run the same command again"
            )


def _check_idle(lock: CachePath) -> None:
    """Raise CacheBusyError if a probe is being trained.

    Its lock is not kept: a cache may have more probes than a process may have open files.
    """
    if not isinstance(lock, Path) or not lock.exists():
        return
    try:
        with file_lock(lock):
            pass
    except CacheBusyError:
        raise CacheBusyError(
            f"{lock.parent}: another process is training this probe; wait for it to end, or stop "
            "it and run the command again"
        ) from None
