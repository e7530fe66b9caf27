"""Metrics of outputs and targets.

Shapes: N samples, C classes, T targets of a regression, R sets of sample weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layercache.probing.heads.spec import CLASSIFICATION, MULTI_LABEL
from layercache.probing.metrics.registry import Family, check_metric, metrics_of
from layercache.probing.metrics.samples import MultiLabel, Regression, Samples, SingleLabel

Array = np.ndarray[Any, Any]


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
    values = compute_weighted(samples, weights, task=task, names=names)
    return {name: float(value) for name, value in values.items()}


def compute_weighted(
    samples: Samples, weights: Tensor, *, task: str, names: Sequence[str]
) -> dict[str, Tensor]:
    """Return metrics by name, each (R,), for several sets of sample weights.

    Metrics of one family are computed once.

    Args:
        samples: What the metrics need of outputs and targets.
        weights: Weight of each sample in each set, float64 (N, R).
        task: classification, multi-label or regression.
        names: Metrics to compute.

    Raises:
        OptionError: The task has no such metric.
    """
    metrics = [check_metric(name, task=task) for name in names]
    families: dict[Family, None] = dict.fromkeys(metric.families[task] for metric in metrics)
    values = {name: v for family in families for name, v in family(samples, weights).items()}
    return {metric.name: values[metric.name] for metric in metrics}
