"""Rates of the machine: the roofline that the other parts are compared with.

A computation that needs F floating-point operations and moves M bytes takes at least
max(F / rate of a large square product, M / rate of a copy in the device's memory).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from benchmarks.gpu.context import Context, synchronize


def measure(context: Context) -> None:
    """Measure products in fp32 and bf16, a copy on the device, and copies to and from it."""
    device, n = context.device, 256 if context.tiny else 8192
    flop = 2 * n**3
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        rate = flop / median(lambda a=a, b=b: a @ b, device) / 1e9
        context.emit(f"square product of {n}, {name}", rate, f"GFLOP/s {name}")
    large = torch.randn(2**20 if context.tiny else 2**28, device=device)
    target = torch.empty_like(large)
    seconds = median(lambda: target.copy_(large), device)
    context.emit("copy on the device, read and written", 8 * large.numel() / seconds / 1e9, "GB/s")
    if device.startswith("cuda"):
        host = torch.empty(2**26, pin_memory=True)
        part = target[: 2**26]
        for what, call in (
            ("pinned host memory to the device", lambda: part.copy_(host, non_blocking=True)),
            ("device to pinned host memory", lambda: host.copy_(part, non_blocking=True)),
        ):
            context.emit(what, host.nbytes / median(call, device) / 1e9, "GB/s link")
    context.emit("cores", len(os.sched_getaffinity(0)), "cores")


def median(call: Callable[[], object], device: str, *, repeats: int = 7) -> float:
    """Return the median seconds of a call, after two that are not timed."""
    times = []
    for turn in range(repeats + 2):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        if turn > 1:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def least_seconds(
    rates: Mapping[str, float], *, flop: float, precision: str, nbytes: float = 0
) -> float | None:
    """Return the roofline's time of a computation, or None if the rates were not measured.

    Args:
        rates: By unit, as `measure` emits them.
        flop: Floating-point operations.
        precision: fp32 or bf16.
        nbytes: Bytes read and written in the device's memory.
    """
    if f"GFLOP/s {precision}" not in rates or "GB/s" not in rates:
        return None
    return max(flop / rates[f"GFLOP/s {precision}"], nbytes / rates["GB/s"]) / 1e9
