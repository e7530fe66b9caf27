"""The validation score of one hyperparameter configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

ConfigKey = tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class ConfigScore:
    """Validation metrics of one configuration, on one fold or averaged over all of them."""

    hparams: Mapping[str, float]
    """Hyperparameters by name."""
    fold: int | None
    """Number of the fold, from 0; None for the mean over all folds."""
    val_metrics: Mapping[str, float] | None
    """See `metrics.evaluate`; None where training diverged, {} where no samples were held out."""
    diverged: bool = False
    """Loss, gradient or parameters were not finite, during the search or the refit."""
    epochs: int | None = None
    """Epochs behind the score (fewer with early stopping); None for the baselines."""
    configs_per_pass: int | None = None
    """Configurations that trained together with it, itself included; None for the baselines."""
    stop_epoch: int | None = None
    """Epoch, from 1, after which the search stopped the training for this score; None: its end."""
    losses: tuple[float, ...] = ()
    """Mean training loss of each epoch; empty for the baselines and for means over folds."""
    val_curve: tuple[tuple[int, float], ...] = ()
    """(epoch from 1, score by the metric that selects) of the epochs that were evaluated."""

    @property
    def key(self) -> ConfigKey:
        """The hyperparameters as a hashable key."""
        return config_key(self.hparams)

    @property
    def training(self) -> ConfigKey:
        """The hyperparameters as far as they change the training, see `training_key`."""
        return training_key(self.hparams)


def config_key(hparams: Mapping[str, float]) -> ConfigKey:
    """Return the hyperparameters as a hashable key that does not depend on their order."""
    return tuple(sorted((name, float(value)) for name, value in hparams.items()))


def training_key(hparams: Mapping[str, float]) -> ConfigKey:
    """Return a key that is the same for configurations whose training is the same to the bit.

    A step of AdamW multiplies the parameters by 1 - lr * weight_decay, in float32. Where that
    rounds to 1 at the initial learning rate, the largest of the schedule, the decay has no effect.
    """
    if "weight_decay" in hparams and "lr" in hparams:
        decay = np.float32(hparams["lr"]) * np.float32(hparams["weight_decay"])
        if np.float32(1) - decay == 1:
            return config_key({**hparams, "weight_decay": 0.0})
    return config_key(hparams)
