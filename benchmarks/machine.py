"""Describe the machine that a benchmark runs on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def describe() -> str:
    """Return one line: processor, cores, memory, GPU if any, torch, system, Python, load."""
    cpu, memory = platform.processor() or platform.machine(), ""
    if (info := Path("/proc/cpuinfo")).exists() and (
        found := re.search(r"model name\s*:\s*(.+)", info.read_text())
    ):
        cpu = found[1]
    if (info := Path("/proc/meminfo")).exists() and (
        found := re.search(r"MemTotal:\s*(\d+)", info.read_text())
    ):
        memory = f"{int(found[1]) / 2**20:.0f} GiB"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [
        cpu,
        f"{cores} cores",
        memory,
        *gpu(),
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
    ]
    return ", ".join(filter(None, parts)) + f"; load {os.getloadavg()[0]:.1f}"


def gpu() -> list[str]:
    """Return the GPU's name, if any, and torch's version, or nothing if torch is not installed."""
    try:
        import torch
    except ImportError:
        return []
    return [
        *([torch.cuda.get_device_name()] if torch.cuda.is_available() else []),
        f"torch {torch.__version__}",
    ]


if __name__ == "__main__":
    print(describe())
