"""Bootstrap interval of each metric of one probe, over test samples.

The interval of a gain of one probe over another is in `reporting.analysis.paired_bootstrap`.

Shapes: N samples, C classes, T targets of a regression, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layercache.errors import OptionError
from layercache.probing.metrics.registry import metrics_of
from layercache.probing.metrics.samples import Samples
from layercache.probing.metrics.scoring import compute_weighted, read_samples

Array = np.ndarray[Any, Any]
Interval = tuple[float, float]

RESAMPLES = 1000
LEVEL = 0.95
CHUNK_BYTES = 2**26
"""Memory for the weights of the resamples that are computed together."""


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
    Resamples in which a metric is not defined are left out; an interval is NaN if none is left.

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
        [compute_weighted(samples, weights, task=task, names=names) for samples in models]
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


def _interval(values: Array, level: float) -> Interval:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
