"""Describe the machine that a benchmark runs on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from layercache._devices import available_cores


def describe() -> str:
    """Return one line: processor, cores, memory, GPU if any, torch, system, Python, load."""
    cpu = _find(r"model name\s*:\s*(.+)", "/proc/cpuinfo")
    memory = _find(r"MemTotal:\s*(\d+)", "/proc/meminfo")
    parts = [
        cpu or platform.processor() or platform.machine(),
        f"{available_cores()} cores",
        f"{int(memory) / 2**20:.0f} GiB" if memory else "",
        *gpu(),
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
    ]
    return ", ".join(filter(None, parts)) + f"; load {os.getloadavg()[0]:.1f}"


def _find(pattern: str, path: str) -> str:
    """Return the first group of a pattern in a file, or nothing."""
    match = re.search(pattern, Path(path).read_text()) if Path(path).exists() else None
    return match[1] if match else ""


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
