"""The recorded origins of a cache: read, and added to by every extraction."""

from __future__ import annotations

import logging
from pathlib import Path
from uuid import uuid4

from layercache.cache.format.origin import ORIGINS, Origin
from layercache.cache.storage.base import FileSource, Store
from layercache.cache.storage.local import LocalStore
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import CachePath
from layercache.errors import CacheCorruptError

logger = logging.getLogger(__name__)


def read_origins(files: FileSource) -> tuple[Origin, ...]:
    """Return the origins of a cache, those that still exist first, then the last recorded first.

    A damaged record is left out and logged.
    """
    infos = files.list_files(ORIGINS)
    origins: list[Origin] = []
    newest_first = sorted(infos, key=lambda key: (-infos[key].modified, key))
    for key, data in files.read_many(newest_first).items():
        try:
            origins.append(Origin.from_bytes(data, where=str(files.path(key))))
        except CacheCorruptError as error:
            logger.warning("left out: %s", error)
    return tuple(sorted(origins, key=lambda origin: not origin.exists))


def record_origin(path: CachePath, origin: Origin, *, temporary: str | None = None) -> None:
    """Add an origin to a cache that has been begun; logs if the cache cannot be written.

    Args:
        path: Folder of the cache.
        origin: The origin.
        temporary: Folder for temporary files that no other process uses and that the next writer
            removes; by default a new one.
    """
    store: Store
    if isinstance(path, Path):  # other processes may be writing: a temporary folder of its own
        store = LocalStore(path, temporary=temporary or f"partial-{uuid4().hex}")
    else:
        store = open_store(path)
    try:
        if store.stat(origin.key) is None:
            store.create(origin.key, [origin.to_bytes()])
    except OSError as error:  # read-only; the tokens are usable all the same
        logger.info("the origin of this cache could not be recorded: %s", error)
    finally:
        store.remove_temporary()
