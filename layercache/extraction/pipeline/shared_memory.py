"""Memory that decoding processes write and the forward reads: no pixel goes through a pipe.

The memory has no name: it is freed when the last process that maps it is gone, even if all were
killed.
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


def allocate(
    *, slots: int, rows: int, shapes: tuple[Shape, ...]
) -> tuple[int, list[list[np.ndarray[Any, Any]]]]:
    """Allocate shared memory of zeros and map it.

    On Linux it is an anonymous file, outside /dev/shm and its limit; elsewhere an unlinked
    temporary file.

    Args:
        slots: Number of slots.
        rows: Rows of a slot.
        shapes: Shape of a row in each array of a slot.

    Returns:
        The file descriptor, for other processes to map, and the arrays; see `map_slots`.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("layercache", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, slots * rows * sum(math.prod(shape) for shape in shapes))
    return fd, map_slots(fd, slots=slots, rows=rows, shapes=shapes)


def map_slots(
    fd: int, *, slots: int, rows: int, shapes: tuple[Shape, ...]
) -> list[list[np.ndarray[Any, Any]]]:
    """Map the shared memory.

    Returns:
        arrays[slot][k]: uint8 (rows, *shapes[k]), a view of the shared memory.
    """
    lengths = [rows * math.prod(shape) for _ in range(slots) for shape in shapes]
    memory = np.frombuffer(mmap.mmap(fd, sum(lengths)), np.uint8)
    arrays = iter(np.split(memory, np.cumsum(lengths)[:-1]))
    return [[next(arrays).reshape(rows, *shape) for shape in shapes] for _ in range(slots)]
