"""Makes the C library keep the memory that a training step frees, because the next step needs it.

glibc returns a freed buffer of some MiB to the kernel, and each use of the next one is a page fault
per 4 KiB: a fifth to a quarter of a training step of the attentive head on two cores (measured).
Other C libraries have no such option and are left alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt (malloc.h)."""
TRIM_BYTES = 2**30
"""Free memory at the end of the heap that is kept."""
MMAP_BYTES = 2**28
"""Larger buffers are still mapped one by one, and returned to the kernel when they are freed."""
GLIBC_DEFAULT = 2**25
"""Upper limit of glibc's own dynamic threshold for mapping; that for trimming is twice this."""


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Keep freed memory inside the `with` block, and return it to the kernel at its end."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
    libc.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_THRESHOLD, GLIBC_DEFAULT)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * GLIBC_DEFAULT)
        libc.malloc_trim(0)
