"""Choice of the device, and the number of cores this process may use."""

from __future__ import annotations

import math
import os

from layercache.errors import OptionError


def resolve_device(requested: str) -> tuple[str, str]:
    """Return the device to use and why.

    Args:
        requested: "auto", "cpu" or "cuda"; "auto" takes a GPU if there is one.

    Returns:
        "cpu" or "cuda", and the reason for the user.

    Raises:
        OptionError: A GPU is requested and torch finds none.
    """
    import torch

    available = torch.cuda.is_available()
    if requested == "cuda" and not available:
        raise OptionError("device 'cuda': torch finds no GPU on this machine; use 'cpu' or 'auto'")
    if requested != "auto":
        return requested, "as requested"
    return ("cuda", torch.cuda.get_device_name()) if available else ("cpu", "no GPU found")


def available_cores() -> int:
    """Return the number of cores this process may use, by affinity and the container's quota."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores
