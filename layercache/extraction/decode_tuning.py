"""Choice of decoding, in a thread or in worker processes, from the time that a few samples take."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layercache._devices import available_cores
from layercache.extraction.datasets.base import Samples
from layercache.extraction.pipeline.decode import RowRange, Transform, decode_rows
from layercache.extraction.pipeline.decoder import Decoder, ThreadDecoder
from layercache.extraction.pipeline.process_decoder import ProcessDecoder
from layercache.extraction.pipeline.shared_memory import Shape

TIMING_SAMPLES = 5
"""Samples that are decoded to measure; the first is warm-up."""
INLINE_DECODE_MAX_S = {"cpu": 0.5e-3, "cuda": 0.02e-3, "mps": 0.02e-3}
"""Seconds per image, by device, below which a thread of this process decodes."""
GPU_IMAGES_PER_S = 10_000
"""Decoding rate at which no GPU of today waits for images, at ViT sizes."""
WORKER_NICE = 10
"""Niceness of decoding processes that share the cores with the forward: they take what it leaves,
and all while it waits."""


@dataclass(frozen=True)
class DecodePlan:
    """Choice of decoder."""

    workers: int
    """Number of processes; 0: a thread of this process."""
    reason: str
    """Why, for the user."""
    niceness: int
    """Niceness of the processes."""

    def open_decoder(self, *, shapes: Sequence[Shape], rows: int) -> Decoder:
        """Start the decoder.

        Args:
            shapes: Output shape of each transform.
            rows: Rows of the longest chunk.
        """
        if not self.workers:
            return ThreadDecoder(shapes=shapes, rows=rows)
        return ProcessDecoder(
            workers=self.workers, shapes=shapes, rows=rows, niceness=self.niceness
        )


def plan_decoding(
    samples: Samples,
    transforms: Sequence[Transform],
    *,
    shapes: Sequence[Shape],
    device: str,
    workers: int | None = None,
    cores: int | None = None,
    niceness: int = WORKER_NICE,
) -> DecodePlan:
    """Choose how to decode.

    Args:
        samples: Samples of which a few are decoded to measure; whether they can be decoded does not
            matter.
        transforms: Transforms that are applied to every image.
        shapes: Output shape of each transform.
        device: Device of the forward, "cpu", "cuda" or "mps".
        workers: Number of processes, if the user has chosen it.
        cores: Number of cores that may be used; None: all of this process.
        niceness: Niceness of the processes where they share the cores with the forward.
    """
    niceness = niceness if device == "cpu" else 0
    if workers is not None:
        return DecodePlan(workers, "as requested", niceness)
    seconds = seconds_per_image(samples, transforms, shapes=shapes)
    reason = f"an image takes {1000 * seconds:.2g} ms"
    if seconds < INLINE_DECODE_MAX_S[device]:
        return DecodePlan(0, reason, niceness)
    cores = cores or available_cores()
    workers = cores
    if device != "cpu":
        workers = min(max(1, cores - 1), math.ceil(seconds * GPU_IMAGES_PER_S))
    return DecodePlan(workers, f"{reason}, {cores} cores", niceness)


def seconds_per_image(
    samples: Samples, transforms: Sequence[Transform], *, shapes: Sequence[Shape]
) -> float:
    """Return the median seconds to open and transform an image, over a few rows of the split."""
    out = [np.empty((1, *shape), np.uint8) for shape in shapes]
    times = []
    for row in np.linspace(0, len(samples.labels) - 1, TIMING_SAMPLES).round().astype(int).tolist():
        began = time.perf_counter()
        decode_rows(samples, transforms, RowRange(row, row + 1), out)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])
