"""Waiting for files that a worker on another machine has written to a shared file system."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

VISIBILITY_TIMEOUT_S = 60.0
"""Timeout for a remote write to become visible (NFS attribute caching)."""
POLL_S = 0.2
"""Seconds between two looks."""

Value = TypeVar("Value")


def wait_until_visible(read: Callable[[], Value | None], *, distributed: bool) -> Value | None:
    """Return the first value that is not None, or None after the timeout.

    Args:
        read: Returns what was written, or None if it is not visible yet.
        distributed: False reads only once: a write of this process is visible at once.
    """
    deadline = time.monotonic() + (VISIBILITY_TIMEOUT_S if distributed else 0.0)
    while (value := read()) is None and time.monotonic() <= deadline:
        time.sleep(POLL_S)
    return value
