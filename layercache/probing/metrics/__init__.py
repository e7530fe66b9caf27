"""All metrics of probes, reports, studies and predictions, and their bootstrap intervals.

    registry.py            names, titles, directions, which task has which metric
    scoring.py             `compute`
    bootstrap_interval.py  `bootstrap`
    samples.py             what is kept of the output on each sample
    classification.py, multi_label.py, regression.py, ranking.py       definitions

docs/metrics.md defines each metric and says when it is NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from layercache.probing.heads.spec import CLASSIFICATION, MULTI_LABEL, REGRESSION
from layercache.probing.metrics.bootstrap_interval import (
    LEVEL,
    RESAMPLES,
    Interval,
    bootstrap,
    bootstrap_samples,
)
from layercache.probing.metrics.registry import (
    ALIASES,
    METRICS,
    PRIMARY,
    Metric,
    check_metric,
    column_metric,
    find_metric,
    metrics_of,
    parse_metrics,
    selection_metric,
    selection_metric_of,
    task_of,
)
from layercache.probing.metrics.samples import (
    MultiLabel,
    Regression,
    Samples,
    SingleLabel,
    class_ranks,
    summarize_logits,
    to_probabilities,
)
from layercache.probing.metrics.scoring import compute, compute_from_samples, read_samples

__all__ = [
    "ALIASES",
    "CLASSIFICATION",
    "LEVEL",
    "METRICS",
    "MULTI_LABEL",
    "PRIMARY",
    "REGRESSION",
    "RESAMPLES",
    "STANDARD",
    "STORED",
    "Interval",
    "Metric",
    "MultiLabel",
    "Regression",
    "Samples",
    "SingleLabel",
    "bootstrap",
    "bootstrap_samples",
    "check_metric",
    "class_ranks",
    "column_metric",
    "compute",
    "compute_from_samples",
    "confusion",
    "evaluate",
    "evaluate_samples",
    "find_metric",
    "metrics_of",
    "parse_metrics",
    "read_samples",
    "selection_metric",
    "selection_metric_of",
    "summarize_logits",
    "task_of",
    "to_probabilities",
]

STANDARD = {
    CLASSIFICATION: ("balanced_accuracy", "top1_accuracy", "top5_accuracy", "log_loss"),
    MULTI_LABEL: ("mean_average_precision", "log_loss"),
    REGRESSION: ("r2", "mae", "rmse", "spearman"),
}
"""Task -> metrics that every probe stores, of the validation and of the test samples."""
STORED = tuple(dict.fromkeys(name for names in STANDARD.values() for name in names))
"""Those of all tasks."""


def evaluate(
    outputs: Any, targets: Any, *, task: str = CLASSIFICATION, select: str | None = None
) -> dict[str, float]:
    """Return the metrics that every probe stores, without those that are not defined.

    Args:
        outputs: Logits (N, C), or values (N, T) of a regression.
        targets: Class numbers (N,), 0/1 targets (N, C), or values (N, T).
        task: classification, multi-label or regression.
        select: One more metric, by which configurations are selected.
    """
    return evaluate_samples(read_samples(outputs, targets, task=task), task=task, select=select)


def evaluate_samples(samples: Samples, *, task: str, select: str | None = None) -> dict[str, float]:
    """Return the metrics of `evaluate`."""
    names = dict.fromkeys([*STANDARD[task], *([select] if select else [])])
    values = compute_from_samples(samples, task=task, names=[*names])
    return {name: value for name, value in values.items() if value == value}


def confusion(
    predicted: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]], *, classes: int
) -> NDArray[np.int64]:
    """Return counts (C, C): row true class, column predicted class."""
    return np.bincount(
        labels.astype(np.int64) * classes + predicted, minlength=classes * classes
    ).reshape(classes, classes)
