"""Metrics as pure functions of predictions and labels, and the bootstrap interval of one of them.

Shapes: N samples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]


def evaluate(
    logits: Floats, labels: NDArray[Any], *, multi_label: bool = False
) -> dict[str, float]:
    """Return the metrics that a probe reports.

    Args:
        logits: (N, C).
        labels: Class numbers (N,), or 0/1 targets (N, C) if `multi_label`.
        multi_label: An image may have several classes.

    Returns:
        balanced_accuracy, top1_accuracy and top5_accuracy; or mean_average_precision if
        `multi_label`.
    """
    if multi_label:
        return {"mean_average_precision": mean_average_precision(logits, labels)}
    return evaluate_ranks(_ranks(logits, labels), labels)


def evaluate_regression(predicted: Floats, targets: Floats) -> dict[str, float]:
    """Return r2, mae, rmse and spearman, each the mean over columns.

    r2 is 1 - sum (y - p)^2 / sum (y - mean y)^2, NaN where all targets of a column are equal;
    spearman is the correlation of the ranks, NaN where targets or predictions of a column are all
    equal.

    Args:
        predicted: (N, C), in the unit of the targets.
        targets: (N, C).
    """
    predicted, targets = np.asarray(predicted, np.float64), np.asarray(targets, np.float64)
    errors = predicted - targets
    squares = np.square(errors).sum(0)
    total = np.square(targets - targets.mean(0)).sum(0)
    r2 = 1 - squares / np.where(total > 0, total, np.nan)
    rhos = [_spearman(p, y) for p, y in zip(predicted.T, targets.T, strict=True)]
    return {
        "r2": float(np.mean(r2)),
        "mae": float(np.mean(np.abs(errors))),
        "rmse": float(np.mean(np.sqrt(squares / len(targets)))),
        "spearman": float(np.mean(rhos)),
    }


def _spearman(a: Floats, b: Floats) -> float:
    """Return the correlation of the ranks of (N,) and (N,); tied values share their mean rank."""
    import pandas as pd

    ranks = [pd.Series(values).rank().to_numpy() for values in (a, b)]
    centered = [values - values.mean() for values in ranks]
    norms = [float(np.linalg.norm(values)) for values in centered]
    return float(centered[0] @ centered[1] / np.prod(norms)) if all(norms) else float("nan")


def evaluate_ranks(ranks: Ints, labels: Ints) -> dict[str, float]:
    """Return the single-label metrics of `evaluate` from `class_ranks` (N,)."""
    counts = np.bincount(labels)
    hits = np.bincount(labels[ranks == 0], minlength=len(counts))
    present = counts > 0
    return {
        "balanced_accuracy": float(np.mean(hits[present] / counts[present])),
        "top1_accuracy": float(np.mean(ranks < 1)),
        "top5_accuracy": float(np.mean(ranks < 5)),
    }


def class_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the number of classes that rank above the true one, int64 (..., N).

    Of tied classes the lower number ranks above, as with argmax. NaN is never below anything, so a
    row of NaN ranks last.

    Args:
        logits: (..., N, C).
        labels: Class numbers (N,).
    """
    true_class = labels.expand(logits.shape[:-1])[..., None]
    true_logit = logits.gather(-1, true_class)
    later = torch.arange(logits.shape[-1], device=logits.device) >= true_class
    return (~((logits < true_logit) | ((logits == true_logit) & later))).sum(-1)


def _ranks(logits: Floats, labels: Ints) -> NDArray[np.int64]:
    return class_ranks(torch.as_tensor(logits), torch.as_tensor(labels, dtype=torch.int64)).numpy()


def selection_metric(*, multi_label: bool, regression: bool = False) -> str:
    """Return the metric by which configurations are selected."""
    if regression:
        return "r2"
    return "mean_average_precision" if multi_label else "balanced_accuracy"


def balanced_accuracy(predicted: Ints, labels: Ints) -> float:
    """Return the mean recall over the classes that occur in `labels`; both (N,)."""
    counts = np.bincount(labels)
    hits = np.bincount(labels[predicted == labels], minlength=len(counts))
    present = counts > 0
    return float(np.mean(hits[present] / counts[present]))


def top_k(logits: Floats, labels: Ints, *, k: int) -> float:
    """Return the share of samples whose true class is among the first k (see `class_ranks`)."""
    return float(np.mean(_ranks(logits, labels) < k))


def confusion(predicted: Ints, labels: Ints, *, classes: int) -> NDArray[np.int64]:
    """Return counts (C, C): row true class, column predicted class."""
    return np.bincount(
        labels.astype(np.int64) * classes + predicted, minlength=classes * classes
    ).reshape(classes, classes)


def average_precision(scores: Floats, targets: NDArray[Any]) -> float:
    """Return the sum over thresholds of the gain in recall times the precision there; both (N,).

    Tied scores share a threshold. NaN without a positive.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(np.asarray(targets)[order] > 0)
    if not len(hits) or hits[-1] == 0:
        return float("nan")
    last = np.append(np.diff(scores[order]) != 0, True)  # the last of each run of ties
    precision, recall = hits[last] / (np.flatnonzero(last) + 1), hits[last] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def mean_average_precision(scores: Floats, targets: NDArray[Any]) -> float:
    """Return the mean of `average_precision` over the classes with a positive; both (N, C).

    NaN if no class has one.
    """
    values = [
        average_precision(scores[:, c], targets[:, c])
        for c in range(scores.shape[1])
        if np.any(targets[:, c] > 0)
    ]
    return float(np.mean(values)) if values else float("nan")


def bootstrap_interval(
    statistic: Callable[[Ints], float],
    n: int,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return a percentile confidence interval of one score over test samples.

    It estimates how much the score varies between test sets, not between training seeds.
    (`reporting.statistics.paired_bootstrap` compares two probes.)

    Args:
        statistic: The score of row numbers (n,), drawn with replacement.
        n: Number of test samples.
        resamples: Number of draws.
        level: Coverage.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(0, n, n)) for _ in range(resamples)]
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
