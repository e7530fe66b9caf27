"""The training protocol of the probes: grid, batch rule, schedule, class weights (arXiv 2601.09322 and its authors' public code).

Shapes: N samples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from layercache.errors import OptionError, ProbeError

LEARNING_RATES = (1e-1, 1e-2, 1e-3)
WEIGHT_DECAYS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0)
DROPOUTS = (0.0, 0.1, 0.3)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Feature noise: a sample is chosen with a probability, then every element of its normalised tokens gets an independent normal draw."""

    std: float = 0.05
    """Standard deviation."""
    probability: float = 0.5
    """Chance that a sample is noised."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.std) and self.std >= 0 and 0 <= self.probability <= 1):
            raise OptionError(
                f"noise needs std >= 0 and a probability in [0, 1], came std={self.std}, probability={self.probability}"
            )


@dataclass(frozen=True, kw_only=True)
class HParams:
    """One point of the hyperparameter grid."""

    lr: float
    """Initial learning rate."""
    weight_decay: float
    """Decoupled weight decay of AdamW, on every parameter."""
    dropout: float = 0.0
    """Rate of attention dropout; heads without attention take 0 only."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise OptionError(f"a learning rate is a finite number > 0, came {self.lr}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise OptionError(f"weight decay is a finite number >= 0, came {self.weight_decay}")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"dropout lies in [0, 1), came {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How one head is trained; the defaults are the paper's."""

    epochs: int = 40
    """Passes over the training rows, before `min_steps` raises them."""
    min_steps: int = 1000
    """Epochs are raised until there are at least this many optimiser steps."""
    batch: int = 2048
    """Largest batch; `batch_size` lowers it for small training sets."""
    min_batches: int = 5
    """Batches that an epoch has at least, the last at least half full."""
    noise: Noise | None = Noise()
    """Feature noise of training batches, or None."""
    clip: float | None = 5.0
    """Largest norm of one configuration's gradient, or None."""
    lr_end: float = 1e-6
    """Learning rate that the cosine ends at."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    class_weights: bool = True
    """Weigh the cross-entropy by N / (C n_c). Multi-label training never weighs (see `class_weights`)."""
    patience: int | None = None
    """Stop a configuration whose validation has not improved for this many epochs and keep its best epoch; None keeps the last of all epochs."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "min_batches"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is at least 1, came {getattr(self, name)}")
        if self.min_steps < 0:
            raise OptionError(f"min_steps is at least 0, came {self.min_steps}")
        if self.clip is not None and not self.clip > 0:
            raise OptionError(f"clip is a number > 0 or None, came {self.clip}")
        if self.patience is not None and self.patience < 1:
            raise OptionError(f"patience is at least 1 epoch or None, came {self.patience}")

    def plan(self, rows: int) -> Schedule:
        """Batch, steps and epochs for this many training rows. Raises ProbeError below 2 rows."""
        batch = batch_size(rows, largest=self.batch, min_batches=self.min_batches)
        steps = -(-rows // batch)
        return Schedule(
            batch=batch, steps_per_epoch=steps, epochs=max(self.epochs, -(-self.min_steps // steps))
        )


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What a protocol comes to for a number of training rows."""

    batch: int
    """Rows per batch; the last one of an epoch may be shorter."""
    steps_per_epoch: int
    """Batches of an epoch."""
    epochs: int
    """Epochs, raised where the protocol asks for more steps."""

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.steps_per_epoch * self.epochs


def paper_grid(kind: str) -> tuple[HParams, ...]:
    """The paper's settings: 21 for the linear head, 63 for the heads with attention, in the order lr, weight decay, dropout."""
    dropouts = (0.0,) if kind == "linear" else DROPOUTS
    return grid(lr=LEARNING_RATES, weight_decay=WEIGHT_DECAYS, dropout=dropouts)


def grid(
    *, lr: Sequence[float], weight_decay: Sequence[float], dropout: Sequence[float] = (0.0,)
) -> tuple[HParams, ...]:
    """The settings of a full product, in the order lr, weight decay, dropout."""
    return tuple(
        HParams(lr=a, weight_decay=b, dropout=c) for a, b, c in product(lr, weight_decay, dropout)
    )


def batch_size(rows: int, *, largest: int = 2048, min_batches: int = 5) -> int:
    """The largest batch with which an epoch has at least `min_batches` batches whose last is at least half full.

    No batch has a single row, since BatchNorm has no statistics there: where that leaves nothing (fewer than 10 rows, 11 and so on), an epoch has
    as many batches as it can. Raises ProbeError below 2 rows, and for the few pairs of a tiny `largest` with `rows` that have no such batch.
    """
    if rows < 2:
        raise ProbeError(
            f"a head is trained on at least 2 samples, came {rows}: use more training samples"
        )
    for wanted in range(min_batches, 0, -1):
        for batch in range(min(largest, rows), 1, -1):
            batches = -(-rows // batch)
            last = rows - (batches - 1) * batch
            if batches >= wanted and 2 * last >= batch and last >= 2:
                return batch
    raise ProbeError(
        f"{rows} training samples cannot be cut into batches of at most {largest} without one of a single sample: allow a larger batch"
    )


def cosine(start: float, *, end: float, step: int, steps: int) -> float:
    """Learning rate of step 0..steps-1 of a cosine from `start` to `end` (reached at step == steps)."""
    return end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights N / (C n_c) of the cross-entropy, float32 (C,), 0 for a class without samples; labels int64 (N,).

    Multi-label targets have no such weights here: n_c does not partition the samples, and mean average precision, by which they are selected,
    ranks within a class and so does not see a class's weight.
    """
    counts = torch.bincount(labels.cpu(), minlength=classes).double()
    return torch.where(counts > 0, len(labels) / (classes * counts.clamp(min=1)), 0.0).float()
