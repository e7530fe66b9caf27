"""Metrics of outputs and targets, and their bootstrap intervals.

Shapes: N samples, C classes, T targets of a regression, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layercache.errors import OptionError
from layercache.probing.heads.spec import CLASSIFICATION, MULTI_LABEL
from layercache.probing.metrics.registry import (
    Family,
    check_metric,
    metrics_of,
)
from layercache.probing.metrics.samples import MultiLabel, Regression, Samples, SingleLabel

Array = np.ndarray[Any, Any]
Interval = tuple[float, float]

RESAMPLES = 1000
LEVEL = 0.95
CHUNK_BYTES = 2**26
"""Memory for the weights of the resamples that are computed together."""


def read_samples(outputs: Array | Tensor, targets: Array | Tensor, *, task: str) -> Samples:
    """Return what the metrics need of outputs and targets.

    Args:
        outputs: Logits (N, C), or predicted values (N,) or (N, T) of a regression.
        targets: Class numbers (N,), 0/1 targets (N, C), or values (N,) or (N, T).
        task: classification, multi-label or regression.
    """
    if task == CLASSIFICATION:
        return SingleLabel.from_logits(outputs, targets)
    if task == MULTI_LABEL:
        return MultiLabel.from_logits(outputs, targets)
    return Regression.from_values(outputs, targets)


def compute(
    outputs: Array | Tensor,
    targets: Array | Tensor,
    *,
    task: str,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Return metrics by name; NaN where one is not defined (docs/metrics.md).

    Args:
        outputs: See `read_samples`.
        targets: See `read_samples`.
        task: classification, multi-label or regression.
        names: Metrics to compute; None: all of the task.

    Raises:
        OptionError: The task has no such metric.
    """
    return compute_from_samples(read_samples(outputs, targets, task=task), task=task, names=names)


def compute_from_samples(
    samples: Samples, *, task: str, names: Sequence[str] | None = None
) -> dict[str, float]:
    """Return metrics by name, as `compute`."""
    names = metrics_of(task) if names is None else names
    weights = torch.ones(len(samples.targets), 1, dtype=torch.float64)
    return {name: float(value) for name, value in _evaluate(samples, weights, task, names).items()}


def bootstrap(
    outputs: Array | Tensor,
    targets: Array | Tensor,
    *,
    task: str,
    names: Sequence[str] | None = None,
    groups: Array | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return a percentile confidence interval of each metric over test samples.

    It estimates how much a metric varies between test sets, not between training seeds.
    (`reporting.analysis.significance.paired_bootstrap` compares two probes.) Resamples in which a
    metric is not defined are left out; an interval is NaN if none is left.

    Args:
        outputs: See `read_samples`.
        targets: See `read_samples`.
        task: classification, multi-label or regression.
        names: Metrics to compute; None: all of the task.
        groups: Group of each sample (N,), such as the patient: whole groups are drawn, as samples
            of one group are not independent. None: each sample on its own.
        resamples: Number of draws.
        level: Coverage.
        seed: Seed of the draws.

    Raises:
        OptionError: The task has no such metric.
    """
    samples = read_samples(outputs, targets, task=task)
    (intervals,) = bootstrap_samples(
        [samples],
        task=task,
        names=names,
        groups=groups,
        resamples=resamples,
        level=level,
        seed=seed,
    )
    return intervals


def bootstrap_samples(
    models: Sequence[Samples],
    *,
    task: str,
    names: Sequence[str] | None = None,
    groups: Array | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> list[dict[str, Interval]]:
    """Return the intervals of several models on the same test samples, drawn once for all.

    Args:
        models: What the metrics need of each model's outputs; the same targets in all.
        task: See `bootstrap`, as for the others.
        names: Metrics to compute.
        groups: Group of each sample.
        resamples: Number of draws.
        level: Coverage.
        seed: Seed of the draws.

    Raises:
        OptionError: The task has no such metric.
    """
    if not models:
        return []
    names = metrics_of(task) if names is None else names
    n = len(models[0].targets)
    if groups is not None and len(groups) != n:
        raise OptionError(f"groups: expected one for each of {n} samples, got {len(groups)}")
    parts = [
        [_evaluate(samples, weights, task, names) for samples in models]
        for weights in _resample_weights(n, groups=groups, resamples=resamples, seed=seed)
    ]
    return [
        {
            name: _interval(torch.cat([part[i][name] for part in parts]).numpy(), level)
            for name in parts[0][i]
        }
        for i in range(len(models))
    ]


def _resample_weights(
    n: int, *, groups: Array | None, resamples: int, seed: int
) -> Iterator[Tensor]:
    """Yield how often each sample is in each resample, float64 (N, R), in chunks of resamples."""
    rng = np.random.default_rng(seed)
    units, index = n, None
    if groups is not None:
        levels, index = np.unique(np.asarray(groups), return_inverse=True)
        units = len(levels)
    size = max(1, CHUNK_BYTES // (8 * max(n, 1)))
    for start in range(0, resamples, size):
        counts = [
            np.bincount(rng.integers(0, units, units), minlength=units)
            for _ in range(start, min(start + size, resamples))
        ]
        weights = np.stack(counts, axis=1)
        yield torch.from_numpy(weights if index is None else weights[index]).double()


def _evaluate(
    samples: Samples, weights: Tensor, task: str, names: Sequence[str]
) -> dict[str, Tensor]:
    """Return metrics, each (R,), for weights (N, R); those of one family are computed once."""
    metrics = [check_metric(name, task=task) for name in names]
    families: dict[Family, None] = dict.fromkeys(metric.families[task] for metric in metrics)
    values = {name: v for family in families for name, v in family(samples, weights).items()}
    return {metric.name: values[metric.name] for metric in metrics}


def _interval(values: Array, level: float) -> Interval:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
