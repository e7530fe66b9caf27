"""How to decode: in worker processes or a thread, and how many, from the time that a few samples really take."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layercache.extraction.datasets.base import Samples
from layercache.extraction.pipeline.decode_rows import Transform, decode_rows
from layercache.extraction.pipeline.decoder import Decoder, ThreadDecoder
from layercache.extraction.pipeline.process_decoder import ProcessDecoder
from layercache.extraction.pipeline.shared_memory import Shape

TRIED = 5
"""Samples that are decoded to measure; the first is warm-up."""
NEXT_TO_NOTHING = {"cpu": 0.5e-3, "cuda": 0.02e-3}
"""Seconds of an image below which a thread of this process decodes."""
GPU_RATE = 10_000
"""Images/s that decoding must reach so that no GPU of today waits for it, at ViT sizes."""
POLITE = 10
"""Niceness of workers beside a forward on the same cores: they take what it leaves, and all when it waits for them."""


@dataclass(frozen=True)
class DecodePlan:
    """The choice."""

    workers: int
    """Processes; 0: a thread."""
    why: str
    """For the user."""
    nice: int
    """Niceness of the processes."""

    def open(self, *, shapes: Sequence[Shape], rows: int) -> Decoder:
        """Start it: `shapes` per transform, pieces of at most `rows` rows."""
        if not self.workers:
            return ThreadDecoder(shapes=shapes, rows=rows)
        return ProcessDecoder(workers=self.workers, shapes=shapes, rows=rows, nice=self.nice)


def choose(
    samples: Samples,
    transforms: Sequence[Transform],
    *,
    shapes: Sequence[Shape],
    device: str,
    asked: int | None,
    cores: int | None = None,
) -> DecodePlan:
    """The number asked for, else what the measured time of an image suggests. An image that cannot be decoded is none of its business.

    cores: those that may be used, if not all of this process's.
    """
    nice = POLITE if device == "cpu" else 0
    if asked is not None:
        return DecodePlan(asked, "as asked", nice)
    seconds = measure(samples, transforms, shapes=shapes)
    took = f"an image takes {1000 * seconds:.2g} ms"
    if seconds < NEXT_TO_NOTHING[device]:
        return DecodePlan(0, took, nice)
    cores = cores or usable_cores()
    wanted = cores if device == "cpu" else min(max(1, cores - 1), math.ceil(seconds * GPU_RATE))
    return DecodePlan(wanted, f"{took}, {cores} cores", nice)


def measure(samples: Samples, transforms: Sequence[Transform], *, shapes: Sequence[Shape]) -> float:
    """Seconds to open and transform one image: the median over a few rows spread over the split."""
    out = [np.empty((1, *shape), np.uint8) for shape in shapes]
    times = []
    for row in np.linspace(0, len(samples.labels) - 1, TRIED).round().astype(int).tolist():
        began = time.perf_counter()
        decode_rows(samples, transforms, out, row, row + 1)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and on Linux the container's quota."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        with open("/sys/fs/cgroup/cpu.max") as f:
            quota, period = f.read().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores
