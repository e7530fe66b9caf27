"""The checksum crc32c (Castagnoli) of a buffer.

`google_crc32c.extend` holds Python's global interpreter lock while it computes, so all threads
together verify no faster than one core, about 20 GB/s. Its extension module is linked to the C
library libcrc32c, whose function computes the same without the lock when ctypes calls it. Two
threads wait longer for the lock than they gain by releasing it (benchmarks/LOG.md, 2026-11-30), so
this is used on machines with more cores.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import google_crc32c
import numpy as np

from layercache._devices import available_cores

MIN_BYTES = 2**16
"""Size from which releasing the lock saves more time than a call through ctypes takes."""
MIN_CORES = 3
"""Number of cores from which the lock is released."""
CHECK_INPUT, CHECK_VALUE = b"123456789", 0xE3069283
"""The usual test vector of a CRC, and its crc32c (RFC 3720, appendix B.4, uses the same)."""


def crc32c(data: bytes | np.ndarray[Any, Any], crc: int = 0) -> int:
    """Return the crc32c of bytes or of a C-contiguous array, continued from `crc`.

    Other threads run in the meantime if there are at least MIN_BYTES and MIN_CORES.

    Raises:
        ValueError, BufferError: The array is not C-contiguous.
    """
    nbytes = len(data) if isinstance(data, bytes) else data.nbytes
    if _EXTEND is None or nbytes < MIN_BYTES:
        return int(google_crc32c.extend(crc, data))
    buffer = np.frombuffer(data, np.uint8)
    return _EXTEND(crc, buffer.ctypes.data, nbytes)


def _find_extend() -> Callable[[int, int, int], int] | None:
    """Return libcrc32c's `crc32c_extend`: (crc, address, bytes) -> crc.

    Returns None where it cannot be reached: on Windows, and with the pure Python google-crc32c.
    """
    try:
        from google_crc32c import _crc32c

        # The loader looks for the function in the libraries of the extension module, too.
        extend = ctypes.CDLL(_crc32c.__file__).crc32c_extend
    except (ImportError, OSError, AttributeError):
        return None
    extend.argtypes = [ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t]
    extend.restype = ctypes.c_uint32
    data = ctypes.create_string_buffer(CHECK_INPUT)
    return extend if extend(0, ctypes.addressof(data), len(CHECK_INPUT)) == CHECK_VALUE else None


_EXTEND = _find_extend() if available_cores() >= MIN_CORES else None
