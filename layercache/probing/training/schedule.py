"""Batch size, number of epochs and learning rate of a training run (arXiv 2601.09322)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from layercache.errors import ProbeError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Batches and epochs for a number of training rows."""

    batch_size: int
    """Rows per batch; the last one of an epoch may be shorter."""
    steps_per_epoch: int
    """Batches of an epoch."""
    epochs: int
    """Epochs, raised if the minimum number of steps requires it."""

    @property
    def steps(self) -> int:
        """Optimizer steps in total."""
        return self.steps_per_epoch * self.epochs


def make_schedule(
    n_rows: int, *, epochs: int, min_steps: int, max_batch_size: int, min_batches: int
) -> Schedule:
    """Return the schedule for a number of training rows.

    Args:
        n_rows: Training rows.
        epochs: Minimum number of epochs.
        min_steps: Minimum number of optimizer steps.
        max_batch_size: See `choose_batch_size`.
        min_batches: See `choose_batch_size`.

    Raises:
        ProbeError: There is no valid batch size.
    """
    batch_size = choose_batch_size(n_rows, max_batch_size=max_batch_size, min_batches=min_batches)
    steps_per_epoch = -(-n_rows // batch_size)
    return Schedule(
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        epochs=max(epochs, -(-min_steps // steps_per_epoch)),
    )


def choose_batch_size(n_rows: int, *, max_batch_size: int = 2048, min_batches: int = 5) -> int:
    """Return the largest batch size with enough batches per epoch, the last at least half full.

    No batch has a single row, because BatchNorm has no statistics there. If that rules out
    `min_batches` batches (fewer than 10 rows, 11 and so on), an epoch has as many as possible.

    Args:
        n_rows: Training rows.
        max_batch_size: Largest batch size.
        min_batches: Batches of an epoch.

    Raises:
        ProbeError: There are fewer than 2 rows, or they have no such batch size (a few combinations
            with a tiny `max_batch_size`).
    """
    if n_rows < 2:
        raise ProbeError(
            f"a head is trained on at least 2 samples, got {n_rows}: use more training samples"
        )
    for min_n_batches in range(min_batches, 0, -1):
        for batch_size in range(min(max_batch_size, n_rows), 1, -1):
            n_batches = -(-n_rows // batch_size)
            last = n_rows - (n_batches - 1) * batch_size
            if n_batches >= min_n_batches and 2 * last >= batch_size and last >= 2:
                return batch_size
    raise ProbeError(
        f"{n_rows} training samples cannot be divided into batches of at most {max_batch_size} "
        "without one of a single sample: allow a larger batch"
    )


def cosine_lr(start: float, *, end: float, step: int, steps: int) -> float:
    """Return the learning rate of a step of a cosine schedule.

    Args:
        start: Learning rate at step 0.
        end: Learning rate at step `steps`, which is never taken.
        step: Number of the step, from 0.
        steps: Number of steps.
    """
    return end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2
