"""Peak memory of a process."""

from __future__ import annotations

from pathlib import Path

import pytest

STATUS = Path("/proc/self/status")
readable = pytest.mark.skipif(not STATUS.exists(), reason="this system has no /proc/self/status")
"""Mark of tests that call `peak_memory`."""


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes.

    `getrusage` is no replacement: the peak that it returns includes that of the process that
    started this one, so a test run of 2 GB would hide what its subprocess takes.
    """
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return 1024 * int(lines["VmHWM"].split()[0])
