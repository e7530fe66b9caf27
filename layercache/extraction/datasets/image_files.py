"""Samples that are image files in a folder."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image, UnidentifiedImageError

from layercache._units import format_bytes
from layercache.cache.format.crc32c import crc32c
from layercache.errors import DataError
from layercache.extraction.datasets.change_detection import ABSENT, Stamps
from layercache.extraction.datasets.file_kinds import describe_bytes

MAX_HASHED_BYTES = 1 << 30
"""Total size of a split's images up to which every byte is hashed."""

FORMATS = (
    *("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000", "DIB", "ICO"),
    *("QOI", "SGI", "SUN", "PCX", "TGA"),
)
"""Formats of still images, by Pillow's names; nothing else is ever opened.

Others run a program (EPS starts Ghostscript) or are no photographs. The first five are those that
Pillow loads by itself; the last have a weak signature.
"""

MAX_FILE_BYTES = 1 << 30
"""Size of the largest image file that is read."""

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
"""Folders that a NAS, an archiver or a file system puts next to the user's; no classes."""

THUMBNAIL_FOLDERS = frozenset({"thumbs", "Thumbs", "_thumbs", "thumbnails", "Thumbnails"})
"""Folders of smaller copies, left out below a class."""


class Contents(NamedTuple):
    """Result of one pass over the images of a split."""

    digest: str
    """`Samples.content_digest`."""
    unreadable: dict[str, str]
    """Id -> reason for each image that cannot be read."""
    image_hashes: np.ndarray[Any, Any] | None
    """Hash of every image's bytes, uint64 (N,), 0 for an unreadable one; None if not read."""
    stamps: Stamps
    """Size and checksum that each image is compared with when it is decoded."""


class HashedImages:
    """Base of samples whose images are read once, for their digest, and compared later."""

    @property
    def content_digest(self) -> str:
        """Digest of the images' bytes, or of their sizes above MAX_HASHED_BYTES."""
        return self._contents.digest

    @property
    def unreadable(self) -> dict[str, str]:
        """Id -> reason for each image that was missing or not readable for the digest."""
        return self._contents.unreadable

    @property
    def image_hashes(self) -> np.ndarray[Any, Any] | None:
        """Hash of every image's bytes, uint64 (N,); None if only sizes were read."""
        return self._contents.image_hashes

    @property
    def mtimes(self) -> np.ndarray[Any, Any] | None:
        """Modification time of every image in ns, int64 (N,), if only sizes were read."""
        return self._contents.stamps.mtimes

    @cached_property
    def _contents(self) -> Contents:
        raise NotImplementedError


def read_unchanged(
    samples: HashedImages, row: int, read: Callable[[], tuple[bytes, int | None]]
) -> bytes:
    """Return the encoded image `row` if it is what the first pass over its split found.

    Args:
        samples: Samples of the split. The first pass is their cached property `_contents`: it is
            not made here, and without it nothing is compared.
        row: Row of the image.
        read: Returns the image's bytes and the modification time of its file in ns, if known.

    Raises:
        DataChangedError: It has changed.
        Exception: Whatever `read` raises.
    """
    contents: Contents | None = samples.__dict__.get("_contents")
    if contents is None:
        return read()[0]
    try:
        encoded, mtime = read()
    except (DataError, OSError) as error:
        contents.stamps.check_absent(row, error)
        raise
    contents.stamps.check(row, encoded, mtime=mtime)
    return encoded


@dataclass(frozen=True)
class FileSamples(HashedImages):
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

    @cached_property
    def _contents(self) -> Contents:
        n = len(self.ids)
        unreadable: dict[str, str] = {}
        sizes, mtimes = np.full(n, ABSENT, "<i8"), np.zeros(n, np.int64)
        for row, sample_id in enumerate(self.ids):
            with _record_os_error(unreadable, sample_id):
                status = os.stat(self.path(row))
                sizes[row], mtimes[row] = status.st_size, status.st_mtime_ns
        digest = hashlib.sha256(sizes.tobytes())
        if sizes.sum() > self.max_hashed_bytes:
            stamps = Stamps(sizes, mtimes=mtimes)
            return Contents(f"sizes:{digest.hexdigest()}", unreadable, None, stamps)
        hashes, crcs = np.zeros(n, np.uint64), np.zeros(n, np.uint32)
        sizes = np.full(n, ABSENT, np.int64)
        for row, sample_id in enumerate(self.ids):
            with _record_os_error(unreadable, sample_id):
                encoded = read_file(self.path(row))
                digest.update(encoded)
                hashes[row], crcs[row] = hash_image(encoded), crc32c(encoded)
                sizes[row] = len(encoded)
        stamps = Stamps(sizes, crcs)
        return Contents(f"bytes:{digest.hexdigest()}", unreadable, hashes, stamps)

    def path(self, row: int) -> str:
        """Return the path of image `row`."""
        return os.path.join(self.root, self.ids[row])

    def load(self, row: int) -> Image.Image:
        """Return image `row`, opened from memory so that no file stays open.

        Raises:
            DataChangedError: It has changed since `content_digest` was made.
            Exception: Whatever reading and opening it raise.
        """
        return open_encoded(read_unchanged(self, row, lambda: _read_stamped(self.path(row))))

    def take(self, rows: np.ndarray[Any, Any]) -> Self:
        """Return only the given rows, in the given order."""
        return replace(self, ids=[self.ids[row] for row in rows], labels=self.labels[rows])


def read_file(path: str) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: It cannot be read, is larger than MAX_FILE_BYTES, or is a pipe, a device or the
            like, which would block.
    """
    return _read_stamped(path)[0]


def _read_stamped(path: str) -> tuple[bytes, int]:
    """Return the bytes of a regular file and its modification time in ns after reading them."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _O_BINARY)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "expected a regular file, got a pipe or device", path)
        if status.st_size > MAX_FILE_BYTES:
            size = format_bytes(status.st_size)
            limit = format_bytes(MAX_FILE_BYTES)
            raise OSError(errno.EFBIG, f"expected an image of at most {limit}, got {size}", path)
        return file.read(), os.fstat(descriptor).st_mtime_ns


_O_BINARY = getattr(os, "O_BINARY", 0)


def hash_image(encoded: bytes) -> int:
    """Return a 64-bit hash of an image's bytes, which tells equal files apart from others."""
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


def open_encoded(encoded: bytes) -> Image.Image:
    """Open an encoded image of one of FORMATS; pixels are decoded when they are read.

    Raises:
        UnidentifiedImageError: It is no such image; says what it is.
        Exception: Whatever PIL raises for a damaged header.
    """
    with suppress(UnidentifiedImageError):
        return Image.open(io.BytesIO(encoded), formats=FORMATS[:5])
    with suppress(UnidentifiedImageError):
        return Image.open(io.BytesIO(encoded), formats=_available_formats())
    raise UnidentifiedImageError(describe_bytes(encoded))


@cache
def _available_formats() -> tuple[str, ...]:
    """Return FORMATS without those that this Pillow was built without; imports every plugin."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


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
