"""Hyperparameters and the training configuration of the probes (arXiv 2601.09322)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from layercache.errors import OptionError
from layercache.probing.heads.spec import SPATIAL, WITHOUT_DROPOUT, HeadSpec
from layercache.probing.results.config_score import join_pair, split_pair
from layercache.probing.training.schedule import Schedule, make_schedule

LEARNING_RATES = (1e-1, 1e-2, 1e-3)
WEIGHT_DECAYS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0)
DROPOUTS = (0.0, 0.1, 0.3)
ADDED = {"layer_dropout": 0.0, "kind_dropout": 0.0, "last_layer_penalty": 0.0}
"""Fields of TrainConfig that the first probes did not have, with the value that they stand for."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Feature noise on the normalized tokens (see `data.collate.add_noise`).

    Each row is selected with a probability; independent normal draws are added to all its elements.
    """

    std: float = 0.05
    """Standard deviation."""
    probability: float = 0.5
    """Probability that a row is selected."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.std) and self.std >= 0 and 0 <= self.probability <= 1):
            raise OptionError(
                "noise: expected std >= 0 and a probability in [0, 1], got "
                f"std={self.std}, probability={self.probability}"
            )


@dataclass(frozen=True, kw_only=True)
class HParams:
    """One point of the hyperparameter grid."""

    lr: float
    """Initial learning rate."""
    weight_decay: float
    """Decoupled weight decay of AdamW, on every parameter."""
    dropout: float = 0.0
    """Rate of attention dropout; 0 for heads without attention."""
    spatial: HParams | None = None
    """Those of the spatial branch of a fusion head, if they differ from those of the layers."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise OptionError(f"lr: expected a finite number > 0, got {self.lr}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise OptionError(
                f"weight_decay: expected a finite number >= 0, got {self.weight_decay}"
            )
        if not 0 <= self.dropout < 1:
            raise OptionError(f"dropout: expected a number in [0, 1), got {self.dropout}")

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> HParams:
        """Return the hyperparameters that `to_dict` returned."""
        own, spatial = split_pair(values)
        hparams = cls(**own)  # type: ignore[arg-type]  # `spatial` is not among them
        return replace(hparams, spatial=cls.from_dict(spatial)) if spatial else hparams

    def to_dict(self) -> dict[str, float]:
        """Return the values by name; those of a spatial branch as "spatial_lr" and so on."""
        own = {"lr": self.lr, "weight_decay": self.weight_decay, "dropout": self.dropout}
        return join_pair(own, self.spatial.to_dict()) if self.spatial else own

    def of_branch(self, branch: str) -> HParams:
        """Return the hyperparameters of one branch of a fusion head.

        Args:
            branch: LAYERS or SPATIAL; "" leaves them as they are.
        """
        if not branch or self.spatial is None:
            return self
        return self.spatial if branch == SPATIAL else replace(self, spatial=None)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training settings of one head; defaults are those of the paper and its authors' code."""

    epochs: int = 40
    """Passes over the training rows, before `min_steps` raises them."""
    min_steps: int = 1000
    """Epochs are raised until there are at least this many optimizer steps."""
    batch: int = 2048
    """Largest batch size; small training sets have smaller batches (see `choose_batch_size`)."""
    min_batches: int = 5
    """Minimum number of batches of an epoch, the last at least half full."""
    noise: Noise | None = Noise()
    """Feature noise of training batches, or None."""
    clip: float | None = 5.0
    """Maximum norm of one configuration's gradient, or None."""
    lr_end: float = 1e-6
    """Learning rate at the end of the cosine schedule."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    class_weights: bool = True
    """Weight the cross-entropy by N / (C n_c); without effect on multi-label training."""
    layer_dropout: float = 0.0
    """Probability that training leaves out a layer of an image (see `training.dropout`)."""
    kind_dropout: float = 0.0
    """Probability that training leaves out a kind of token of an image, such as all CLS."""
    last_layer_penalty: float = 0.0
    """Weight in the loss of the mean attention to tokens below the last layer."""
    patience: int | None = None
    """Stop a configuration whose validation metric has not improved for this many epochs, and keep
    its best epoch; None keeps the last of all epochs."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "min_batches"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.min_steps < 0:
            raise OptionError(f"min_steps: expected at least 0, got {self.min_steps}")
        if self.clip is not None and not self.clip > 0:
            raise OptionError(f"clip: expected a number > 0 or None, got {self.clip}")
        for name in ("layer_dropout", "kind_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(
                    f"{name}: expected a probability in [0, 1), got {getattr(self, name)}"
                )
        if not (math.isfinite(self.last_layer_penalty) and self.last_layer_penalty >= 0):
            raise OptionError(
                f"last_layer_penalty: expected a number >= 0, got {self.last_layer_penalty}"
            )
        if self.patience is not None and self.patience < 1:
            raise OptionError(f"patience: expected at least 1 epoch or None, got {self.patience}")

    @property
    def uses_layers(self) -> bool:
        """True if training needs the layer and kind of each token."""
        return bool(self.layer_dropout or self.kind_dropout or self.last_layer_penalty)

    def check_head(self, head: HeadSpec) -> None:
        """Check that a head can be trained like this.

        Raises:
            OptionError: It has no attention, or its tokens have no known layers, where they are
                needed.
        """
        if self.last_layer_penalty and not head.has_attention:
            raise OptionError(
                f"the {head.kind} head has no attention to direct to the last layer: leave "
                "last_layer_penalty out, or train this head in a run without it"
            )
        if self.uses_layers and head.layer_ids is None:
            raise OptionError(
                "layer_dropout, kind_dropout and last_layer_penalty need the layer and kind of "
                "each token, which arrays do not have: leave them out, or use layercache.probe"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON, without newer ones that have their default."""
        # absent, so that probes keep the ids that they had before these fields existed
        return {n: v for n, v in asdict(self).items() if n not in ADDED or v != ADDED[n]}

    def schedule(self, n_rows: int) -> Schedule:
        """Return batch size, steps and epochs for a number of training rows.

        Raises:
            ProbeError: There are too few rows for a batch.
        """
        return make_schedule(
            n_rows,
            epochs=self.epochs,
            min_steps=self.min_steps,
            max_batch_size=self.batch,
            min_batches=self.min_batches,
        )


def paper_grid(kind: str) -> tuple[HParams, ...]:
    """Return the paper's configurations: 21 for heads without attention, 63 for those with it."""
    dropouts = (0.0,) if kind in WITHOUT_DROPOUT else DROPOUTS
    return grid(lr=LEARNING_RATES, weight_decay=WEIGHT_DECAYS, dropout=dropouts)


def grid(
    *, lr: Sequence[float], weight_decay: Sequence[float], dropout: Sequence[float] = (0.0,)
) -> tuple[HParams, ...]:
    """Return all combinations, in the order lr, weight decay, dropout.

    Args:
        lr: Learning rates.
        weight_decay: Weight decays.
        dropout: Dropout rates.
    """
    return tuple(
        HParams(lr=rate, weight_decay=decay, dropout=dropout_rate)
        for rate, decay, dropout_rate in product(lr, weight_decay, dropout)
    )
