"""One interface to train a probe: by gradient descent (here) or at once (`probing.baselines`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from layercache.probing.data.dataset import LabelledTokens
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.metrics import PRIMARY
from layercache.probing.results.config_score import ConfigScore
from layercache.probing.splits.stratified_split import Rows
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.fit import PassSaver, fit
from layercache.probing.training.search_memory import SearchMemory

CURVE_POINTS = (1 / 9, 1 / 3, 2 / 3)
"""Parts of the training after which configurations are evaluated for their learning curves."""
CURVE_COST = 0.01
"""Largest cost of these evaluations, as a part of the training; beyond it there are none."""
FORWARD_COST = 1 / 3
"""Cost of a forward pass, as a part of a training step on as many rows."""

ProgressCallback = Callable[[int, int], None]
"""(steps done, steps in total)."""
ScoreCallback = Callable[[Sequence[ConfigScore]], None]


class FittedModel(Protocol):
    """A trained head, or a nearest-neighbor classifier, which has no parameters."""

    @property
    def diverged(self) -> bool:
        """Training diverged."""
        ...

    def predict(self, tokens: torch.Tensor | np.ndarray[Any, Any]) -> torch.Tensor:
        """Return logits (B, C) of tokens (B, S, D)."""
        ...


class ProbeTrainer(Protocol):
    """Scores configurations on held-out rows and trains the selected one."""

    def score(
        self,
        dataset: LabelledTokens,
        configs: Sequence[Mapping[str, float]],
        *,
        train: Rows,
        val: Rows,
        fold: int,
        on_scores: ScoreCallback,
        stop_epoch: int | None = None,
    ) -> None:
        """Train every configuration on `train` and score it on `val`.

        Args:
            dataset: Tokens and labels.
            configs: Hyperparameters by name.
            train: Rows to train on.
            val: Rows to score on.
            fold: Number of the fold, for the scores.
            on_scores: Called with the scores of the configurations that finish together.
            stop_epoch: Epoch, from 1, after which training stops to be scored; None: the last.
        """
        ...

    def train(
        self,
        dataset: LabelledTokens,
        hparams: Mapping[str, float],
        *,
        rows: Rows,
        epochs: int | None,
        spatial_share: float | None = None,
    ) -> FittedModel:
        """Return a model trained on `rows`.

        Args:
            dataset: Tokens and labels.
            hparams: Hyperparameters by name.
            rows: Rows to train on.
            epochs: Number of epochs that early stopping found; without effect if it is off.
            spatial_share: Share of the spatial branch of a fusion head that the search has chosen.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class SGDTrainer:
    """Trains by gradient descent, all configurations in one pass over the tokens."""

    head: HeadSpec
    """The head to train."""
    config: TrainConfig
    """Schedule, batch size, noise and loss."""
    seed: int
    """Seed of initial parameters, batch order and noise."""
    device: torch.device
    """Device to train on."""
    precision: str
    """Arithmetic of the products over tokens, fp32 or bf16."""
    configs_per_pass: int | None
    """Configurations trained together; None: see `plan_passes`."""
    on_progress: ProgressCallback | None
    """Called after every step."""
    saver: PassSaver | None = None
    """Keeps the states of unfinished training."""
    select: str | None = None
    """One more metric to score by; training stops early by it. None: that of the task."""
    memory: SearchMemory | None = None
    """What the search of this fold keeps in memory; None: nothing, no training is continued."""
    sample_weight: torch.Tensor | None = None
    """Weights of all rows of the dataset in the training loss, (N,); None weights them equally."""

    def score(
        self,
        dataset: LabelledTokens,
        configs: Sequence[Mapping[str, float]],
        *,
        train: Rows,
        val: Rows,
        fold: int,
        on_scores: ScoreCallback,
        stop_epoch: int | None = None,
    ) -> None:
        """See ProbeTrainer."""
        metric = self.select or PRIMARY[self.head.task]

        def report(heads: Sequence[FittedHead]) -> None:
            on_scores(
                [
                    ConfigScore(
                        hparams=head.hparams,
                        fold=fold,
                        val_metrics=None if head.diverged else head.val_metrics,
                        diverged=head.diverged,
                        epochs=head.epochs,
                        configs_per_pass=len(heads),
                        stop_epoch=stop_epoch,
                        losses=head.losses,
                        val_curve=tuple(
                            (epoch, values[metric])
                            for epoch, values in head.val_curve
                            if metric in values
                        ),
                    )
                    for head in heads
                ]
            )

        fit(
            dataset,
            head=self.head,
            configs=[HParams.from_dict(config) for config in configs],
            train=torch.from_numpy(train),
            val=torch.from_numpy(val),
            seed=self.seed,
            train_config=self.config,
            device=self.device,
            precision=self.precision,
            configs_per_pass=self.configs_per_pass,
            on_progress=self.on_progress,
            on_fitted=report,
            saver=self.saver,
            keep_parameters=False,
            select=self.select,
            sample_weight=self.sample_weight,
            stop_epoch=stop_epoch,
            memory=self.memory,
            val_epochs=_curve_epochs(
                self.config.schedule(len(train)).epochs, train_rows=len(train), val_rows=len(val)
            ),
        )

    def train(
        self,
        dataset: LabelledTokens,
        hparams: Mapping[str, float],
        *,
        rows: Rows,
        epochs: int | None,
        spatial_share: float | None = None,
    ) -> FittedHead:
        """See ProbeTrainer.

        Without validation rows there is no early stopping; the `epochs` of the search are repeated.
        Of a fusion head whose share is 0 or 1, only the branch that it consists of is trained.
        """
        config = self.config
        if config.patience is not None:
            config = replace(
                config,
                patience=None,
                epochs=epochs or config.epochs,
                min_steps=0 if epochs else config.min_steps,
            )
        head = self.head.at_share(spatial_share)
        (fitted,) = fit(
            dataset,
            head=head,
            configs=[HParams.from_dict(hparams).of_branch(head.branch)],
            train=torch.from_numpy(rows),
            val=None,
            seed=self.seed,
            train_config=config,
            device=self.device,
            precision=self.precision,
            on_progress=self.on_progress,
            saver=self.saver,
            sample_weight=self.sample_weight,
        )
        if spatial_share is None or fitted.diverged:
            return fitted
        return fitted.with_spatial_share(spatial_share)


def _curve_epochs(epochs: int, *, train_rows: int, val_rows: int) -> list[int]:
    """Return epochs, from 1, to evaluate for learning curves besides the last; none if costly."""
    cost = len(CURVE_POINTS) * FORWARD_COST * val_rows
    if not val_rows or cost > CURVE_COST * epochs * train_rows:
        return []
    return [max(1, round(part * epochs)) for part in CURVE_POINTS]
