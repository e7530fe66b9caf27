"""Peak memory of a process, from Linux's /proc."""

from __future__ import annotations

from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes.

    `getrusage` is no replacement: the peak that it returns includes that of the process that
    started this one, so a parent of 2 GB would hide what its subprocess takes.
    """
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return 1024 * int(lines["VmHWM"].split()[0])
