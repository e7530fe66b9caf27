"""Deleting a cache."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from layercache.cache.cache import Cache
from layercache.cache.format.layout import SPEC_KEY, SplitLayout, cache_folder
from layercache.cache.storage.lock import file_lock


def remove(cache: Cache) -> None:
    """Delete a cache with everything in it, also the probes kept there.

    Raises:
        CacheBusyError: A split is being written, in a folder; object storage does not tell.
    """
    store = cache.store
    with ExitStack() as locks:
        for split in cache.spec.dataset.splits:
            locks.enter_context(file_lock(store.path(SplitLayout(cache.spec, split).lock)))
        store.delete(SPEC_KEY)  # first: what is partly deleted is not a cache
        store.delete_all()
    path = cache.path
    if isinstance(path, Path) and path == cache_folder(path.parents[2], cache.spec):
        for folder in path.parents[:2]:
            if any(folder.iterdir()):
                break
            folder.rmdir()
