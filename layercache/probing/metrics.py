"""Metrics as pure functions of predictions and labels.

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
    """What a probe reports: "balanced_accuracy", "top1", "top5" of class numbers (N,); "map" of 0/1 targets (N, C). Logits (N, C)."""
    if multi_label:
        return {"map": mean_average_precision(logits, labels)}
    return evaluate_ranks(_ranks(logits, labels), labels)


def evaluate_ranks(ranks: Ints, labels: Ints) -> dict[str, float]:
    """The same figures from `class_ranks` (N,)."""
    counts = np.bincount(labels)
    hits = np.bincount(labels[ranks == 0], minlength=len(counts))
    there = counts > 0
    return {
        "balanced_accuracy": float(np.mean(hits[there] / counts[there])),
        "top1": float(np.mean(ranks < 1)),
        "top5": float(np.mean(ranks < 5)),
    }


def class_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes stand above the sample's own, int64 (..., N) from logits (..., N, C) and labels (N,).

    Of tied classes the lower number stands above, as argmax has it. Not-a-number is never below anything, so a row of it ranks last.
    """
    own_class = labels.expand(logits.shape[:-1])[..., None]
    own = logits.gather(-1, own_class)
    later = torch.arange(logits.shape[-1], device=logits.device) >= own_class
    return (~((logits < own) | ((logits == own) & later))).sum(-1)


def _ranks(logits: Floats, labels: Ints) -> NDArray[np.int64]:
    return class_ranks(torch.as_tensor(logits), torch.as_tensor(labels, dtype=torch.int64)).numpy()


def selection_metric(*, multi_label: bool) -> str:
    """The metric of `evaluate` that settings are selected by."""
    return "map" if multi_label else "balanced_accuracy"


def balanced_accuracy(predicted: Ints, labels: Ints) -> float:
    """Mean of the per-class recall over the classes that occur in `labels`; both (N,)."""
    counts = np.bincount(labels)
    hits = np.bincount(labels[predicted == labels], minlength=len(counts))
    there = counts > 0
    return float(np.mean(hits[there] / counts[there]))


def top_k(logits: Floats, labels: Ints, *, k: int) -> float:
    """Share of samples with fewer than k classes above their own, 1.0 where k reaches C; of tied classes the lower number is above."""
    return float(np.mean(_ranks(logits, labels) < k))


def confusion(predicted: Ints, labels: Ints, *, classes: int) -> NDArray[np.int64]:
    """Counts (C, C): row true class, column predicted class."""
    return np.bincount(
        labels.astype(np.int64) * classes + predicted, minlength=classes * classes
    ).reshape(classes, classes)


def average_precision(scores: Floats, targets: NDArray[Any]) -> float:
    """Sum over thresholds of the gain in recall times the precision there, tied scores sharing a threshold; both (N,). NaN without a positive."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(np.asarray(targets)[order] > 0)
    if not len(hits) or hits[-1] == 0:
        return float("nan")
    last = np.append(np.diff(scores[order]) != 0, True)  # the last of each run of ties
    precision, recall = hits[last] / (np.flatnonzero(last) + 1), hits[last] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def mean_average_precision(scores: Floats, targets: NDArray[Any]) -> float:
    """Mean of `average_precision` over the classes with a positive sample; both (N, C). NaN when no class has one."""
    values = [
        average_precision(scores[:, c], targets[:, c])
        for c in range(scores.shape[1])
        if np.any(targets[:, c] > 0)
    ]
    return float(np.mean(values)) if values else float("nan")


def bootstrap(
    statistic: Callable[[Ints], float],
    n: int,
    *,
    repeats: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile confidence interval over test samples: `statistic` of row numbers (n,) drawn with replacement, `repeats` times.

    It says how far the figure would move with other test images; it says nothing about other training seeds.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(0, n, n)) for _ in range(repeats)]
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
