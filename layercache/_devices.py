"""Choice of the device, number of cores and free memory; imports torch only where needed."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from layercache.errors import OptionError

if TYPE_CHECKING:
    import torch

CGROUP = Path("/sys/fs/cgroup")
"""Control group of a container, with its limits (Linux)."""
UNKNOWN_FREE_MEMORY = 8 * 2**30
"""Bytes assumed to be free if the system does not report it (not Linux)."""


def resolve_device(name: str | torch.device) -> tuple[torch.device, str]:
    """Return the device and the reason for it.

    "auto" is CUDA if available, else an Apple GPU (mps), else the CPU.

    Raises:
        OptionError: The name is no device, or this machine has no such device.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), torch.cuda.get_device_name()
        if torch.backends.mps.is_available():
            return torch.device("mps"), "the GPU of this Mac"
        return torch.device("cpu"), "no GPU found"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise OptionError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {str(name)!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise OptionError(
            f"device {name}: torch {torch.__version__} finds no CUDA device on this machine; "
            "use --device cpu or auto"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise OptionError(
            f"device {name}: torch {torch.__version__} finds no Apple GPU on this machine; "
            "use --device cpu or auto"
        )
    return device, "as requested"


def float64_device(device: torch.device) -> torch.device:
    """Return the device for arithmetic in float64: the CPU instead of mps, which has none."""
    import torch

    return torch.device("cpu") if device.type == "mps" else device


def check_dtype(device: torch.device, dtype: torch.dtype) -> None:
    """Check that an Apple GPU computes in a dtype; other devices pass.

    Raises:
        OptionError: This version of torch, or of macOS, has no such dtype there.
    """
    if device.type != "mps":
        return
    import torch

    try:
        torch.ones(1, dtype=dtype, device=device).add_(1)
    except (RuntimeError, TypeError) as error:
        raise OptionError(
            f"precision: torch {torch.__version__} has no {str(dtype).removeprefix('torch.')} on "
            f"mps here ({str(error).splitlines()[0]}): use fp32 or fp16"
        ) from error


def available_cores() -> int:
    """Return the number of cores for this process: its affinity, within the container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group, or the quota is "max"
        return cores


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a device; on the CPU, within the container's limit."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":  # its memory is that of the system, of which it may use a part
        import torch

        left = torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
        return max(0, int(left))
    free = _available_memory()
    limit, used = _read_int(CGROUP / "memory.max"), _read_int(CGROUP / "memory.current")
    if limit is not None and used is not None:
        free = min(free, max(limit - used, 0))
    return free


def _available_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return UNKNOWN_FREE_MEMORY
    kilobytes = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines)}
    return int(kilobytes["MemAvailable"]) * 1024


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no control group, or the limit is "max"
        return None
