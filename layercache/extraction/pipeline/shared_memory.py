"""Shared memory into which workers decode and from which the forward reads: no pixel is ever pickled or sent.

The memory has no name, so nothing is left behind when every process that maps it is gone, however it went.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from typing import Any

import numpy as np

Shape = tuple[int, int, int]
"""(3, H, W) of one preprocessed image."""


def size(*, slots: int, rows: int, shapes: tuple[Shape, ...]) -> int:
    """Bytes of a ring of `slots` slots of `rows` rows for each of `shapes`."""
    return slots * rows * sum(math.prod(shape) for shape in shapes)


def create(size: int) -> int:
    """A file descriptor of `size` zero bytes in memory (Linux: an anonymous file, outside /dev/shm and its limit; elsewhere an unlinked file)."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("layercache", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


def views(
    fd: int, *, slots: int, rows: int, shapes: tuple[Shape, ...]
) -> list[list[np.ndarray[Any, Any]]]:
    """views[slot][k]: uint8 (rows, *shapes[k]) onto the shared memory."""
    memory = np.frombuffer(mmap.mmap(fd, size(slots=slots, rows=rows, shapes=shapes)), np.uint8)
    parts = iter(
        np.split(
            memory,
            np.cumsum([rows * math.prod(shape) for _ in range(slots) for shape in shapes])[:-1],
        )
    )
    return [[next(parts).reshape(rows, *shape) for shape in shapes] for _ in range(slots)]
