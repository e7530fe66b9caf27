"""Memory for tokens that are read from files."""

from __future__ import annotations

from typing import Any

import numpy as np

PAGE_BYTES = 4096


def empty_page_aligned(
    shape: tuple[int, ...], dtype: np.dtype[Any]
) -> np.ndarray[Any, np.dtype[Any]]:
    """Return an uninitialized array that begins at the beginning of a memory page.

    numpy's and torch's large arrays begin 16 and 64 bytes after it. Some AMD processors copy from
    the page cache at a quarter of their speed to an address whose distance to the source, modulo
    the size of a page, is between 0 and 64 bytes, and most chunks of a shard are that far from
    where they go.
    """
    nbytes = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(nbytes + PAGE_BYTES, np.uint8)
    start = -memory.ctypes.data % PAGE_BYTES
    return memory[start : start + nbytes].view(dtype).reshape(shape)
