"""The validation score of one hyperparameter configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

ConfigKey = tuple[tuple[str, float], ...]
PAIRED = ("lr", "weight_decay", "dropout")
"""Hyperparameters that each branch of a fusion head may have of its own."""
SPATIAL_PREFIX = "spatial_"
"""Beginning of the names of those of its spatial branch."""


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


def name_for_branch(metrics: Mapping[str, float], branch: str) -> dict[str, float]:
    """Return metrics of one branch under their names among those of the head: "layers_log_loss"."""
    return {f"{branch}_{name}": value for name, value in metrics.items()}


def metrics_of_branch(metrics: Mapping[str, float] | None, branch: str) -> Mapping[str, float]:
    """Return the metrics of one branch among those of a fusion head (see `name_for_branch`).

    Args:
        metrics: Metrics of the head; None if it diverged.
        branch: LAYERS or SPATIAL; "" returns the metrics as they are.
    """
    if not branch:
        return metrics or {}
    prefix = f"{branch}_"
    return {n.removeprefix(prefix): v for n, v in (metrics or {}).items() if n.startswith(prefix)}


def join_pair(layers: Mapping[str, float], spatial: Mapping[str, float]) -> dict[str, float]:
    """Return the hyperparameters of a fusion head whose branches have different ones.

    Args:
        layers: Those of the branch over the layers.
        spatial: Those of the spatial branch.
    """
    return {**layers, **{f"{SPATIAL_PREFIX}{name}": value for name, value in spatial.items()}}


def split_pair(hparams: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Return what `join_pair` joined; the second part is empty if both branches have the same."""
    names = {f"{SPATIAL_PREFIX}{name}": name for name in PAIRED}
    layers = {name: value for name, value in hparams.items() if name not in names}
    spatial = {names[name]: value for name, value in hparams.items() if name in names}
    return layers, spatial


def is_pair(hparams: Mapping[str, float]) -> bool:
    """Return whether these are the hyperparameters of two branches, from `join_pair`."""
    return bool(split_pair(hparams)[1])


def config_columns(hparams: Mapping[str, float], *, share: float | None) -> dict[str, Any]:
    """Return the columns of the results table that show the hyperparameters of a trained head.

    Of a fusion head "config" has those of the spatial branch that differ from those of the layers.

    Args:
        hparams: The selected hyperparameters.
        share: Share of the spatial branch of a fusion head; at 0 and 1 only those of one branch are
            shown, as the head has no other.
    """
    layers, spatial = split_pair(hparams)
    if spatial and share in (0, 1):
        layers, spatial = (spatial if share else layers), {}
    others = {name: value for name, value in layers.items() if name not in PAIRED}
    spatial = {name: value for name, value in spatial.items() if value != layers[name]}
    return {name: layers.get(name) for name in PAIRED} | {
        "config": ", ".join(
            f"{name}={value:g}" for name, value in join_pair(others, spatial).items()
        )
    }


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
