"""Selection of the best configuration by its validation scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from layercache.errors import ProbeError
from layercache.probing.heads.spec import LAYERS, SPATIAL
from layercache.probing.metrics.registry import Metric
from layercache.probing.results.config_score import (
    ConfigKey,
    ConfigScore,
    config_key,
    is_pair,
    join_pair,
    metrics_of_branch,
    training_key,
)

TIED_DIGITS = 12
"""Decimals of a score within which two configurations tie: means over folds differ by rounding."""
LOSS_DIGITS = 3
"""Significant digits of the validation loss that break a tie; others are noise, also between two
machines."""
STRONGER = {"weight_decay": 1.0, "C": -1.0, "alpha": 1.0, "shrinkage": 1.0, "k": 1.0}
"""Hyperparameter of which the larger value (1) or the smaller one (-1) regularizes more."""


class Search(Protocol):
    """Settings that a selection needs, such as a `ProbeSpec`."""

    @property
    def head(self) -> str:
        """Name of the head."""

    @property
    def grid(self) -> Sequence[Mapping[str, float]]:
        """Configurations to select from, by name."""

    @property
    def selection_metric(self) -> Metric:
        """Metric by which a configuration is selected."""

    @property
    def paper_compat(self) -> bool:
        """Ties go to the first configuration, as in the authors' code."""

    @property
    def search(self) -> str:
        """Name of the search, one of `strategies.SEARCHES`."""


def summarize(
    search: Search,
    scores: Sequence[ConfigScore],
    *,
    grid: Sequence[Mapping[str, float]] | None = None,
) -> list[ConfigScore]:
    """Return the mean over the folds of every configuration's scores, in the order of the grid.

    The pair of configurations that a fusion head was scored with (`best_pair`) comes last.

    A configuration that the search dropped has its scores of the epoch at which it was dropped; one
    that was never trained is left out. If nothing is scored (1 shot), all are returned.

    Args:
        search: The search.
        scores: Scores on every fold.
        grid: Configurations to summarize; default: those of the search.
    """
    by_training: dict[ConfigKey, list[ConfigScore]] = {}
    pairs: dict[ConfigKey, Mapping[str, float]] = {}
    for score in scores:
        by_training.setdefault(score.training, []).append(score)
        if is_pair(score.hparams):
            pairs[score.key] = score.hparams
    configs = []
    for hparams in (*search.grid, *pairs.values()) if grid is None else grid:
        own = by_training.get(training_key(hparams), [])
        last = max((s.stop_epoch or math.inf for s in own), default=None)
        if own or not scores:
            last_scores = [s for s in own if (s.stop_epoch or math.inf) == last]
            configs.append(_mean(hparams, last_scores))
    return configs


def _mean(hparams: Mapping[str, float], scores: Sequence[ConfigScore]) -> ConfigScore:
    scores = sorted(scores, key=lambda score: score.fold or 0)
    metrics = [score.val_metrics for score in scores if score.val_metrics is not None]
    diverged = any(score.diverged for score in scores) or len(metrics) < len(scores)
    # a metric may not be defined on every fold
    names = [name for name in metrics[0] if all(name in m for m in metrics)] if metrics else []
    return ConfigScore(
        hparams=hparams,
        fold=None,
        val_metrics=None
        if diverged
        else {name: float(np.mean([values[name] for values in metrics])) for name in names},
        diverged=diverged,
        stop_epoch=scores[0].stop_epoch if scores else None,
        epochs=max((s.epochs for s in scores if s.epochs is not None), default=None),
        configs_per_pass=max(
            (s.configs_per_pass for s in scores if s.configs_per_pass is not None), default=None
        ),
    )


def branches_of(head: str) -> tuple[str, ...]:
    """Return the branches of a fusion head, by which its configurations are ranked; else ("",)."""
    return (LAYERS, SPATIAL) if head == "fusion" else ("",)


def best_pair(search: Search, configs: Sequence[ConfigScore]) -> Mapping[str, float] | None:
    """Return the hyperparameters of a fusion head: for each branch those that score best alone.

    None for other heads, which have no branches.

    Args:
        search: The search.
        configs: Mean scores of its configurations.

    Raises:
        ProbeError: All configurations diverged, or the metric is not defined.
    """
    branches = branches_of(search.head)
    if len(branches) == 1:
        return None
    of_grid = [config for config in configs if not is_pair(config.hparams)]
    layers, spatial = (rank_configs(search, of_grid, branch=branch)[0] for branch in branches)
    if layers.training == spatial.training:
        return layers.hparams
    return join_pair(layers.hparams, spatial.hparams)


def rank_final(search: Search, configs: Sequence[ConfigScore]) -> list[ConfigScore]:
    """Return the configurations in the order in which the final fit tries them.

    It is that of `rank_configs`, but a fusion head begins with its `best_pair`.
    """
    ranked = rank_configs(search, configs)
    pair = best_pair(search, configs)
    first = [config for config in ranked if pair and config.key == config_key(pair)]
    return first + [config for config in ranked if config not in first]


def rank_configs(
    search: Search, configs: Sequence[ConfigScore], *, branch: str = ""
) -> list[ConfigScore]:
    """Return the configurations that have not diverged, best first.

    They are ranked by the validation score of the spec's selection metric. Ties are broken by the
    validation loss, to three digits, then by the stronger regularization (the larger weight decay,
    alpha, shrinkage or k, or the smaller C), then by the order of the grid; with `paper_compat` by
    the order of the grid alone. Without scores (1 shot) the default configuration comes first.

    Args:
        search: The search.
        configs: Mean scores of configurations.
        branch: Branch of a fusion head to rank by, LAYERS or SPATIAL; "": the whole head.

    Raises:
        ProbeError: All configurations diverged, or the metric is not defined.
    """
    usable = [config for config in configs if not config.diverged]
    if not usable:
        raise ProbeError(
            f"all {len(configs)} configurations of the {search.head} head diverged (loss or "
            "gradient not finite): try smaller values of lr; with precision bf16, try fp32"
        )
    metric = search.selection_metric
    if not any(config.val_metrics for config in usable):
        default = config_key(default_config(search))
        return sorted(usable, key=lambda config: config.key != default)
    if not all(metric.name in metrics_of_branch(c.val_metrics, branch) for c in usable):
        raise ProbeError(
            f"the {metric.title} of the validation samples is not defined, so that no "
            "configuration can be selected by it (docs/metrics.md says when): use more training "
            "samples, or another metric with select (--select)"
        )

    def sort_key(config: ConfigScore) -> tuple[float, ...]:
        metrics = metrics_of_branch(config.val_metrics, branch)
        score = metrics.get(metric.name)
        # null in a record stands for NaN, a score that could not be computed
        rank = math.inf
        if score is not None and not math.isnan(score):
            rank = -metric.sign * round(score, TIED_DIGITS)
        return (rank,) if search.paper_compat else (rank, *_tie_key(config, metrics))

    return sorted(usable, key=sort_key)


def _tie_key(config: ConfigScore, metrics: Mapping[str, float]) -> tuple[float, ...]:
    """Return what decides among configurations of the same score; the smallest wins."""
    loss = metrics.get("log_loss")
    if loss is None or not math.isfinite(loss):
        loss = math.inf
    strength = [sign * config.hparams.get(name, 0.0) for name, sign in STRONGER.items()]
    return (float(f"{loss:.{LOSS_DIGITS - 1}e}"), *(-value for value in strength))


def default_config(search: Search) -> Mapping[str, float]:
    """Return the configuration that is used without validation samples.

    Every hyperparameter is the middle one of its values; for knn it is the fewest neighbors, as a
    class may have one sample only.
    """
    if search.head == "knn":
        return min(search.grid, key=lambda hparams: hparams["k"])
    middle = {}
    for name in search.grid[0]:
        values = sorted({hparams[name] for hparams in search.grid})
        middle[name] = values[len(values) // 2]
    if config_key(middle) in {config_key(hparams) for hparams in search.grid}:
        return middle
    return search.grid[len(search.grid) // 2]
