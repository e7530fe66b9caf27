"""Ranges of one object into given buffers, from the network or from what the local disk keeps of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np

from layercache.cache.storage.base import FileInfo, Part, views

if TYPE_CHECKING:
    from layercache.cache.storage.s3 import ObjectStore


class ObjectFile:
    """An object open for reading ranges; a context manager that holds nothing open."""

    def __init__(self, store: ObjectStore, key: str, entry: FileInfo) -> None:
        self.path = str(store.path(key))
        self.size = entry.size
        self._store, self._key, self._tag = store, key, entry.tag

    @property
    def identity(self) -> tuple[str | int, ...]:
        """Changes with the object's bytes."""
        return self.path, self._tag, self.size

    def read_into(self, offset: int, buffers: Sequence[Part]) -> None:
        """Fill the buffers with consecutive bytes from `offset`: one request, one copy. Raises EOFError if the object ends before."""
        targets = views(buffers)
        length = sum(target.nbytes for target in targets)
        spool = self._store.spool
        if not length or (spool and spool.read_into(self.identity, offset, targets, length)):
            return
        data = np.frombuffer(self._store.read_range(self._key, self._tag, offset, length), np.uint8)
        at = 0
        for target in targets:
            np.copyto(np.frombuffer(target, np.uint8), data[at : at + target.nbytes])
            at += target.nbytes
        if spool:
            spool.keep(self.identity, offset, data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
