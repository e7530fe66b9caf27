"""Detects images that changed between identification and decoding, by size, checksum and time.

The digest of a split is made in a first pass over its images, and each image is decoded later. A
file that was replaced in between would put tokens of other images under the digest, so each image
is compared with its stamp when it is decoded: its size, and the crc32c of its bytes if the first
pass has read them, else the modification time of its file.

Shapes: N images of a split.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import numpy as np

from layercache.cache.format.crc32c import crc32c
from layercache.errors import DataChangedError, DataError

Array = np.ndarray[Any, Any]

ABSENT = -1
"""Size of an image that could not be read."""


@dataclass(frozen=True, eq=False)
class Stamps:
    """Stamps of the N images of a split."""

    sizes: Array
    """Bytes of each image, int64 (N,); ABSENT if it could not be read."""
    crcs: Array | None = None
    """crc32c of each image, uint32 (N,); None if the bytes were not read."""
    mtimes: Array | None = None
    """Modification time of each image's file in ns, int64 (N,); None if not noted."""
    host: str = platform.node()
    """Machine on which they were noted: another one's copies of the files may have other times."""

    def check(self, row: int, encoded: bytes, *, mtime: int | None = None) -> None:
        """Compare an image with its stamp.

        Args:
            row: Row of the image.
            encoded: Its bytes as they were read now.
            mtime: Modification time of its file in ns.

        Raises:
            DataChangedError: It differs.
        """
        size = int(self.sizes[row])
        if size == ABSENT:
            raise DataChangedError("it could not be read before, and can be now")
        if len(encoded) != size:
            raise DataChangedError(f"expected {size} bytes as before, got {len(encoded)}")
        if self.crcs is not None and crc32c(encoded) != self.crcs[row]:
            raise DataChangedError(f"expected the same {size} bytes as before, got others")
        if (
            self.mtimes is not None
            and mtime is not None
            and mtime != self.mtimes[row]
            and self.host == platform.node()
        ):
            raise DataChangedError("its file was modified, or replaced by one of the same size")

    def check_absent(self, row: int, error: Exception) -> None:
        """Raise DataChangedError if an image that cannot be read now could be read before."""
        existed = self.sizes[row] != ABSENT
        was_read = self.crcs is not None
        # where only sizes were read, a file that may not be opened is no change
        if existed and (was_read or isinstance(error, FileNotFoundError | DataError)):
            raise DataChangedError(f"it could be read before, and cannot be now: {error}")
