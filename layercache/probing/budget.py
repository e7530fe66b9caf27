"""Where a probe computes and how much memory it may take: resolved once, and said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from layercache.errors import OptionError

UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
SHARE = 0.5
"""Part of the free memory that features may take where no budget is given; the rest is for the fits and for others."""


def resolve_device(name: str | torch.device) -> tuple[torch.device, str]:
    """The device and why: "auto" takes CUDA where there is one. Raises OptionError for a device that this machine lacks."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"cuda ({torch.cuda.get_device_name()})"
        threads = torch.get_num_threads()
        return torch.device(
            "cpu"
        ), f"cpu ({threads} thread{'s' * (threads != 1)}; no CUDA device found)"
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise OptionError(f"--device is auto, cpu or cuda (or cuda:1 ...); came {name!r}") from e
    if device.type == "cuda" and not torch.cuda.is_available():
        raise OptionError(
            f"--device {name}: torch {torch.__version__} finds no CUDA device here; use --device cpu or auto"
        )
    return device, f"{device} (as asked)"


def parse_bytes(text: str | int, *, option: str = "--memory", least: int = 1) -> int:
    """A number of bytes from 8GB, 500MiB or 123456. Raises OptionError, naming the option."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(text))
    if not match or (match[2].upper()) not in UNITS or float(match[1]) < least:
        raise OptionError(f"{option} is a size such as 8GB or 500MiB; came {text!r}")
    return int(float(match[1]) * UNITS[match[2].upper()])


def parse_disk(text: str | int) -> int:
    """As `parse_bytes`, of --disk-cache: 0 is a size too."""
    return parse_bytes(text, option="--disk-cache", least=0)


def format_bytes(n: float) -> str:
    """A size for people, in powers of 1024: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def free_memory(device: torch.device) -> int:
    """Bytes that the device can still give: CUDA's free memory, or the machine's available memory within its control group's limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(_meminfo().get("MemAvailable", 8 * 2**30))
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    if limit is not None and used is not None:
        free = min(free, max(limit - used, 0))
    return free


def _meminfo() -> dict[str, Any]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux: nothing is known, the caller's default serves
        return {}
    return {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in lines)
    }


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # no control group, or "max"
        return None
