"""Samples that are rows of one array.

Shapes: H, W height and width. The array is uint8 (N', H, W), grey, or uint8 (N', H, W, 3).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, Self

import numpy as np
from PIL import Image

from layercache.extraction.datasets.image_files import MAX_HASHED_BYTES

Array = np.ndarray[Any, Any]

HASHED_ROWS = 4096
"""Rows that are hashed of an array too large to be hashed in full; PCam's train split is 7 GB."""


class ArraySamples:
    """Rows of an array that a function returns.

    Only the function travels to a worker process, which calls it when it loads its first image.
    """

    def __init__(
        self,
        read: Callable[[], Array],
        *,
        labels: Array,
        prefix: str,
        rows: Array | None = None,
        max_hashed_bytes: int = MAX_HASHED_BYTES,
    ) -> None:
        """Describe the samples without reading the array.

        Args:
            read: Returns the array; picklable.
            labels: int64 (N,), of the chosen rows.
            prefix: First part of the ids, "<prefix>/<row in the array, six digits>".
            rows: int64 (N,), rows of the array; by default all.
            max_hashed_bytes: Size above which `content_digest` covers only some rows.
        """
        self._read = read
        self._prefix = prefix
        self._rows = np.arange(len(labels)) if rows is None else rows
        self._max_hashed_bytes = max_hashed_bytes
        self.labels = labels

    @cached_property
    def ids(self) -> list[str]:
        """The prefix, a slash and the row in the array."""
        return [f"{self._prefix}/{row:06d}" for row in self._rows.tolist()]

    @cached_property
    def content_digest(self) -> str:
        """Digest of the shape and bytes of the chosen rows, or of evenly spaced ones."""
        shape = (len(self._rows), *self._array.shape[1:])
        digest = hashlib.sha256(repr(shape).encode())
        rows, kind = self._rows, "bytes"
        if math.prod(shape) > self._max_hashed_bytes:
            rows, kind = rows[:: max(1, len(rows) // HASHED_ROWS)], "sample"
        for row in rows:
            digest.update(self._array[row].tobytes())
        return f"{kind}:{digest.hexdigest()}"

    @cached_property
    def _array(self) -> Array:
        array = self._read()
        assert array.dtype == np.uint8
        return array

    def load(self, row: int) -> Image.Image:
        """Return image `row`, mode L or RGB."""
        return Image.fromarray(self._array[self._rows[row]])

    def take(self, rows: Array) -> Self:
        """Return only the given rows, in the given order; an array already read is shared."""
        taken = type(self)(
            self._read,
            labels=self.labels[rows],
            prefix=self._prefix,
            rows=self._rows[rows],
            max_hashed_bytes=self._max_hashed_bytes,
        )
        if "_array" in self.__dict__:
            taken.__dict__["_array"] = self._array
        return taken

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_array", "ids")}
