"""Samples that are image files below a root."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from layercache.errors import DataError

HASHED_IN_FULL = 1 << 30
"""Up to this many bytes, a split's images are hashed byte by byte; beyond, their sizes stand for them."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
"""What counts as an image file: torchvision's list, `.pgm` and `.gif`."""


@dataclass(frozen=True)
class FileSamples:
    """Files `root`/id, N of them."""

    root: str
    """The folder that ids are relative to."""
    ids: list[str]
    """Paths relative to `root`, with forward slashes."""
    labels: np.ndarray[Any, Any]
    """int64 (N,) or uint8 (N, C)."""

    @cached_property
    def content(self) -> str:
        """Digest of the files' bytes, or of their sizes above `HASHED_IN_FULL`. Raises DataError when a file cannot be read."""
        try:
            sizes = [os.stat(self.path(i)).st_size for i in range(len(self.ids))]
            digest = hashlib.sha256(np.asarray(sizes, "<i8").tobytes())
            if sum(sizes) > HASHED_IN_FULL:
                return f"sizes:{digest.hexdigest()}"
            for i in range(len(self.ids)):
                digest.update(Path(self.path(i)).read_bytes())
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
        return f"bytes:{digest.hexdigest()}"

    def path(self, row: int) -> str:
        """Where image `row` lies."""
        return os.path.join(self.root, self.ids[row])

    def load(self, row: int) -> Image.Image:
        """Image `row`, opened from memory: no file stays open."""
        with open(self.path(row), "rb") as f:
            return Image.open(io.BytesIO(f.read()))

    def take(self, rows: np.ndarray[Any, Any]) -> Self:
        """Only these rows, in this order."""
        return type(self)(self.root, [self.ids[i] for i in rows], self.labels[rows])


def is_image(name: str) -> bool:
    """Whether a file name is an image's: a known suffix, and not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
