"""Trains G configurations of one head in one pass over the features. No I/O.

Shapes: N samples, S tokens per image, D width, C classes, G configurations, B rows of a batch.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layercache.probing.heads import HeadSpec
from layercache.probing.protocol import Noise, Protocol, Setting


class Batches(typing.Protocol):
    """Features of one split as the engine sees them."""

    @property
    def rows(self) -> int:
        """N."""

    @property
    def tokens(self) -> int:
        """S."""

    @property
    def width(self) -> int:
        """D."""

    @property
    def labels(self) -> Tensor:
        """int64 (N,), or 0/1 (N, C) when multi-label; on any device."""

    def epoch(self, rows: Tensor, *, batch: int, seed: int, epoch: int, noise: Noise | None, train: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches over `rows` (int64, CPU): x float32 (B, S, D), each token L2-normalised, and its labels, both on the features' device.

        With `train`, order and noise are functions of (seed, epoch) alone, and every batch but the last has `batch` rows; without it the rows come in
        the order given and noise is not added.
        """


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One trained configuration."""

    head: HeadSpec
    setting: Setting
    seed: int
    parameters: Mapping[str, Tensor]
    """State dict of the textbook head (BatchNorm's running statistics too), float32 on the CPU. Of a diverged configuration: what it came to."""
    losses: tuple[float, ...]
    """Mean training loss of each epoch."""
    val: Mapping[str, float] | None
    """Metrics on the validation rows (see `layercache.probing.metrics.evaluate`), or None without them."""
    diverged_at: int | None
    """First step whose loss or gradient was not finite; such a fit must not be selected."""
    batch: int
    """Rows per batch actually used."""
    steps: int
    """Optimiser steps behind `parameters`."""
    epochs: int
    """Epochs behind `parameters` (with patience: the best one, counted from 1)."""

    @property
    def diverged(self) -> bool:
        """The configuration came to no usable head."""
        return self.diverged_at is not None


def fit(
    features: Batches,
    *,
    head: HeadSpec,
    settings: Sequence[Setting],
    train: Tensor,
    val: Tensor | None,
    seed: int,
    protocol: Protocol,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    group_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Fit]:
    """Train every setting on the rows `train` and evaluate it on the rows `val` (int64, CPU); one Fit per setting, in order.

    `progress(done, total)` is called after every step, over all groups; `say` gets the sentence that tells the group size. Raises ProbeError when
    the labels do not allow training.
    """
    raise NotImplementedError


def predict(fit: Fit, *, features: Batches, rows: Tensor, device: torch.device | str = "cpu", precision: str = "fp32", batch: int = 2048) -> Tensor:
    """Logits float32 (len(rows), C) of one trained head, on the CPU, in the order of `rows`."""
    raise NotImplementedError
