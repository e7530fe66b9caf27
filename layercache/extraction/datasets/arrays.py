"""Samples that are rows of one array, which a function reads.

H, W: height and width. The array is uint8 (N', H, W), grey, or (N', H, W, 3).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, Self

import numpy as np
from PIL import Image

from layercache.extraction.datasets.image_files import HASHED_IN_FULL

Array = np.ndarray[Any, Any]

SAMPLE = 4096
"""Rows that stand for an array too large to be hashed; PCam's training part is 7 GB."""


class ArraySamples:
    """Rows of an array that `read` returns. Only the recipe travels to a worker, which reads the array when it loads its first image."""

    def __init__(
        self, read: Callable[[], Array], *, labels: Array, prefix: str, rows: Array | None = None
    ) -> None:
        """`read` is picklable; `labels` go with the kept rows; ids are "<prefix>/<row in the source, six digits>"; `rows` default to all."""
        self._read, self._prefix, self.labels = read, prefix, labels
        self._rows = np.arange(len(labels)) if rows is None else rows

    @cached_property
    def ids(self) -> list[str]:
        """The prefix, a slash and the row in the source."""
        return [f"{self._prefix}/{i:06d}" for i in self._rows.tolist()]

    @cached_property
    def content(self) -> str:
        """Digest of the shape and bytes of the kept rows; above HASHED_IN_FULL of `SAMPLE` rows spread evenly over them."""
        shape = (len(self._rows), *self._array.shape[1:])
        whole = math.prod(shape) <= HASHED_IN_FULL
        digest = hashlib.sha256(repr(shape).encode())
        for i in self._rows if whole else self._rows[:: max(1, len(self._rows) // SAMPLE)]:
            digest.update(self._array[i].tobytes())
        return f"{'bytes' if whole else 'sample'}:{digest.hexdigest()}"

    @cached_property
    def _array(self) -> Array:
        array = self._read()
        assert array.dtype == np.uint8
        return array

    def load(self, row: int) -> Image.Image:
        """Image `row`: mode L or RGB."""
        return Image.fromarray(self._array[self._rows[row]])

    def take(self, rows: Array) -> Self:
        """Only these rows, in this order; an array already read is shared."""
        taken = type(self)(
            self._read, labels=self.labels[rows], prefix=self._prefix, rows=self._rows[rows]
        )
        if "_array" in self.__dict__:
            taken.__dict__["_array"] = self._array
        return taken

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_array", "ids")}
