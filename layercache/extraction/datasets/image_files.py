"""Samples that are image files below a root."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

HASHED_IN_FULL = 1 << 30
"""Up to this many bytes, a split's images are hashed byte by byte; beyond, their sizes stand for them."""

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
)
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

    @property
    def content(self) -> str:
        """Digest of the files' bytes, or of their sizes above `HASHED_IN_FULL`. A file that cannot be read counts as such."""
        return self._read[0]

    @property
    def unreadable(self) -> dict[str, str]:
        """Id -> why: the files that were missing or closed to us when `content` read them."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[str, dict[str, str]]:
        unreadable: dict[str, str] = {}
        sizes = np.full(len(self.ids), -1, "<i8")
        for i, name in enumerate(self.ids):
            with _noting(unreadable, name):
                sizes[i] = os.stat(self.path(i)).st_size
        digest = hashlib.sha256(sizes.tobytes())
        if sizes.sum() > HASHED_IN_FULL:
            return f"sizes:{digest.hexdigest()}", unreadable
        for i, name in enumerate(self.ids):
            with _noting(unreadable, name):
                digest.update(Path(self.path(i)).read_bytes())
        return f"bytes:{digest.hexdigest()}", unreadable

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


@contextmanager
def _noting(unreadable: dict[str, str], name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        unreadable[name] = f"{error.strerror}: {error.filename}"


def is_image(name: str) -> bool:
    """Whether a file name is an image's: a known suffix, and not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
