"""Samples that are image files in a folder."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

MAX_HASHED_BYTES = 1 << 30
"""Total size of a split's images up to which every byte is hashed."""

FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI"),
    *("SGI", "SUN", "TGA", "TIFF", "WEBP"),
)
"""Formats of still images, by Pillow's names; nothing else is ever opened.

Others run a program (EPS starts Ghostscript) or are no photographs.
"""

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp", ".dib"),
        *(".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".ico", ".pcx"),
        *(".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc", ".tga", ".qoi", ".sgi", ".ras"),
    }
)
"""Suffixes of image files in these formats."""

SYSTEM_FOLDERS = frozenset(
    {
        *("@eaDir", "#recycle", "@Recycle", "@Recently-Snapshot", "__MACOSX", "lost+found"),
        *("$RECYCLE.BIN", "System Volume Information"),
    }
)
"""Folders that a NAS, an archiver or a file system puts beside the user's; no classes."""

THUMBNAIL_FOLDERS = frozenset({"thumbs", "Thumbs", "_thumbs", "thumbnails", "Thumbnails"})
"""Folders of smaller copies, left out below a class."""


@dataclass(frozen=True)
class FileSamples:
    """The files `root`/id, N of them."""

    root: str
    """Folder that ids are relative to."""
    ids: list[str]
    """Paths relative to `root`, with forward slashes."""
    labels: np.ndarray[Any, Any]
    """int64 (N,) or uint8 (N, C)."""
    max_hashed_bytes: int = MAX_HASHED_BYTES
    """Total size above which `content_digest` covers the files' sizes instead of their bytes."""

    @classmethod
    def from_paths(cls, root: Path, paths: list[Any], labels: list[int]) -> Self:
        """Return the samples of absolute paths below `root`."""
        start = len(str(root)) + 1
        ids = [str(path)[start:].replace("\\", "/") for path in paths]
        return cls(str(root), ids, np.asarray(labels, np.int64))

    @property
    def content_digest(self) -> str:
        """Digest of the files' bytes, or of their sizes; an unreadable file counts as such."""
        return self._digest_and_unreadable[0]

    @property
    def unreadable(self) -> dict[str, str]:
        """Id -> reason for each file that was missing or not readable when the digest was made."""
        return self._digest_and_unreadable[1]

    @cached_property
    def _digest_and_unreadable(self) -> tuple[str, dict[str, str]]:
        unreadable: dict[str, str] = {}
        sizes = np.full(len(self.ids), -1, "<i8")
        for row, sample_id in enumerate(self.ids):
            with _record_os_error(unreadable, sample_id):
                sizes[row] = os.stat(self.path(row)).st_size
        digest = hashlib.sha256(sizes.tobytes())
        if sizes.sum() > self.max_hashed_bytes:
            return f"sizes:{digest.hexdigest()}", unreadable
        for row, sample_id in enumerate(self.ids):
            with _record_os_error(unreadable, sample_id):
                digest.update(Path(self.path(row)).read_bytes())
        return f"bytes:{digest.hexdigest()}", unreadable

    def path(self, row: int) -> str:
        """Return the path of image `row`."""
        return os.path.join(self.root, self.ids[row])

    def load(self, row: int) -> Image.Image:
        """Return image `row`, opened from memory so that no file stays open."""
        with open(self.path(row), "rb") as f:
            return Image.open(io.BytesIO(f.read()))

    def take(self, rows: np.ndarray[Any, Any]) -> Self:
        """Return only the given rows, in the given order."""
        return replace(self, ids=[self.ids[row] for row in rows], labels=self.labels[rows])


@contextmanager
def _record_os_error(errors: dict[str, str], key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        errors[key] = f"{error.strerror}: {error.filename}"


def ignored_reason(entry: os.DirEntry[str]) -> str | None:
    """Return why a directory entry is no image, by its name and kind; None if it is one.

    A link to nothing counts as an image, which is then reported as unreadable.
    """
    if entry.name.startswith("."):
        return "hidden"
    if not is_image(entry.name):
        return f"not an image by its name: {os.path.splitext(entry.name)[1].lower() or 'no suffix'}"
    if not entry.is_file() and os.path.exists(entry.path):
        return "neither a file nor a folder"
    return None


def is_image(name: str) -> bool:
    """Return whether a file name has the suffix of an image and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
