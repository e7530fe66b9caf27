"""How settings are scored and a head is trained: by gradient descent (fit.py), or by scikit-learn (baselines.py), behind one pair of functions.

Shapes: N samples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from layercache.probing.data.resident import TokenDataset
from layercache.probing.data.splits import Rows
from layercache.probing.heads import HeadSpec
from layercache.probing.training.config import HParams
from layercache.probing.training.config import TrainConfig as Training
from layercache.probing.training.fit import Fit, fit

Progress = Callable[[int, int], None]
Say = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class ConfigScore:
    """What one setting came to on the validation rows of one fold."""

    setting: Mapping[str, float]
    """Names and values."""
    fold: int
    """Which fold, from 0."""
    val: Mapping[str, float] | None
    """Metrics (layercache.probing.metrics.evaluate); None where it diverged."""
    diverged: bool
    """Its loss was not finite."""
    epochs: int | None
    """Epochs behind the score (early stopping), of gradient descent."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A trained head."""

    parameters: Mapping[str, torch.Tensor] | None
    """State dict of the textbook head `shape`; None for a knn baseline."""
    shape: HeadSpec | None
    """What the parameters belong to."""
    logits: Callable[[torch.Tensor], np.ndarray[Any, Any]] | None
    """Normalised tokens (B, S, D) -> scores (B, C), where there are no parameters."""
    diverged: bool = False
    """Not to be used."""
    batch: int | None = None
    """Rows of a batch, of gradient descent."""
    steps: int | None = None
    """Optimiser steps."""
    epochs: int | None = None
    """Epochs."""


Keep = Callable[[Sequence[ConfigScore]], None]


class ProbeTrainer(Protocol):
    """Scores settings and trains the chosen one."""

    def score(
        self,
        features: TokenDataset,
        settings: Sequence[Mapping[str, float]],
        *,
        train: Rows,
        val: Rows,
        fold: int,
        keep: Keep,
    ) -> None:
        """Hands one Score for each setting to `keep`, as many at a time as are ready together."""
        ...

    def train(
        self,
        features: TokenDataset,
        setting: Mapping[str, float],
        *,
        rows: Rows,
        epochs: int | None,
    ) -> Trained:
        """The head of one setting, trained on `rows` (for `epochs`, where early stopping found a number)."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class SGDTrainer:
    """The paper's protocol, all settings in one pass."""

    shape: HeadSpec
    """The head."""
    protocol: Training
    """How it is trained."""
    seed: int
    """Of initial parameters, batch order and noise."""
    device: torch.device
    """Where."""
    precision: str
    """Arithmetic."""
    group_size: int | None
    """Settings trained together; None chooses by the free memory."""
    progress: Progress | None
    """Called after every step."""
    say: Say | None
    """Gets a sentence about the group size."""

    def score(
        self,
        features: TokenDataset,
        settings: Sequence[Mapping[str, float]],
        *,
        train: Rows,
        val: Rows,
        fold: int,
        keep: Keep,
    ) -> None:
        """One pass over the features for each group of settings."""

        def finished(fits: Sequence[Fit]) -> None:
            keep(
                [
                    ConfigScore(
                        setting=vars(f.setting),
                        fold=fold,
                        val=None if f.diverged else f.val,
                        diverged=f.diverged,
                        epochs=f.epochs,
                    )
                    for f in fits
                ]
            )

        fit(
            features,
            head=self.shape,
            settings=[HParams(**setting) for setting in settings],
            train=torch.from_numpy(train),
            val=torch.from_numpy(val),
            seed=self.seed,
            protocol=self.protocol,
            device=self.device,
            precision=self.precision,
            group_size=self.group_size,
            progress=self.progress,
            say=self.say,
            finished=finished,
        )

    def train(
        self,
        features: TokenDataset,
        setting: Mapping[str, float],
        *,
        rows: Rows,
        epochs: int | None,
    ) -> Trained:
        """Without validation rows there is no early stopping: `epochs` of the search are repeated instead."""
        protocol = self.protocol
        if protocol.patience is not None:
            protocol = replace(
                protocol,
                patience=None,
                epochs=epochs or protocol.epochs,
                min_steps=0 if epochs else protocol.min_steps,
            )
        (found,) = fit(
            features,
            head=self.shape,
            settings=[HParams(**setting)],
            train=torch.from_numpy(rows),
            val=None,
            seed=self.seed,
            protocol=protocol,
            device=self.device,
            precision=self.precision,
            progress=self.progress,
        )
        return Trained(
            parameters=found.parameters,
            shape=self.shape,
            logits=None,
            diverged=found.diverged,
            batch=found.batch,
            steps=found.steps,
            epochs=found.epochs,
        )
