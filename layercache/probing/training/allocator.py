"""The C library's heap, told to keep what a training step frees, since the next step wants it back.

glibc returns a freed buffer of some MiB to the kernel, and each use of the next one is a page fault per 4 KiB: measured, a fifth to a quarter of a
training step of the attentive head on two cores. Other C libraries have no such switch and are left alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of mallopt (malloc.h)."""
KEPT = 2**30
"""Bytes of free memory at the heap's end that are kept."""
LARGEST = 2**28
"""Longer buffers are still mapped on their own, and given back when they are freed."""
USUAL = 2**25
"""Where glibc's own thresholds stop growing."""


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Keep freed memory within the `with`; give it back at its end."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(MMAP_THRESHOLD, LARGEST)
    libc.mallopt(TRIM_THRESHOLD, KEPT)
    try:
        yield
    finally:
        libc.mallopt(MMAP_THRESHOLD, USUAL)
        libc.mallopt(TRIM_THRESHOLD, 2 * USUAL)
        libc.malloc_trim(0)
