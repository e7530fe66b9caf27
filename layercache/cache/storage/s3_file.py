"""Ranges of one S3 object into given buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

from layercache.cache.storage.base import FileInfo, Part, byte_views


class S3File:
    """An object open for reading ranges; a context manager that holds nothing open."""

    def __init__(
        self, path: str, info: FileInfo, read_range: Callable[[int, int], memoryview]
    ) -> None:
        """Open an object.

        Args:
            path: Its address.
            info: Its size and etag.
            read_range: Fetches (offset, length) of exactly these bytes.
        """
        self.path = path
        self.size = info.size
        self._etag = info.etag
        self._read_range = read_range

    @property
    def identity(self) -> tuple[str | int, ...]:
        """A value that changes with the object's bytes."""
        return self.path, self._etag, self.size

    def read_into(self, offset: int, buffers: Sequence[Part]) -> None:
        """Fill the buffers with consecutive bytes from `offset`, in one request.

        Raises EOFError if the object ends before.
        """
        views = byte_views(buffers)
        length = sum(view.nbytes for view in views)
        if not length:
            return
        data = np.frombuffer(self._read_range(offset, length), np.uint8)
        start = 0
        for view in views:
            np.copyto(np.frombuffer(view, np.uint8), data[start : start + view.nbytes])
            start += view.nbytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
