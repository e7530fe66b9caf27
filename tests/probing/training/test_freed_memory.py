from __future__ import annotations

import ctypes
import resource
import sys

import pytest
import torch

from layercache.probing.training import freed_memory

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")


def faults() -> int:
    """Return the page faults of allocating and freeing 48 MiB twenty times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(3 * 2**24, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not GLIBC, reason="this C library has no mallopt")
def test_retain_freed_memory_keeps_it_inside_and_returns_it_after() -> None:
    without = faults()
    with freed_memory.retain_freed_memory():
        faults()  # up to eight new blocks, until glibc has cached the small rests between them
        within = faults()
        held = _resident()
    assert within < without / 4, "most times the same pages again"
    assert held - _resident() > 30, "MiB that went back to the kernel"


def test_retain_freed_memory_without_mallopt_does_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda _: object())
    with freed_memory.retain_freed_memory():
        pass


def _resident() -> float:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize() / 2**20
