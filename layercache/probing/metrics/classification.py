"""Metrics of single-label classification. Definitions: docs/metrics.md.

Every function returns all metrics of its kind, each (R,), for weights (N, R).

Shapes: N samples, C classes, R sets of weights.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from layercache.probing.metrics.ranking import class_means
from layercache.probing.metrics.samples import SingleLabel
from layercache.probing.metrics.weighted import NAN, divide, mean, mean_defined, sum_by

LOG_EPS = float(torch.tensor(torch.finfo(torch.float64).eps, dtype=torch.float64).log())
"""Lower bound of the logarithm of a probability, that of scikit-learn's log_loss: -36.04."""
N_BINS = 15
"""Bins of the calibration error."""
TOP_K = re.compile(r"top([1-9]\d*)_accuracy")


def top_k(samples: SingleLabel, weights: Tensor, *, k: int) -> Tensor:
    """Return the share of samples whose true class is among the first k.

    NaN if there are no more than k > 1 classes, as then it is 1 whatever the output.
    """
    if k > 1 and k >= samples.n_classes:
        return torch.full((weights.shape[1],), NAN, dtype=weights.dtype)
    return mean(samples.ranks < k, weights)


def count_metrics(samples: SingleLabel, weights: Tensor) -> dict[str, Tensor]:
    """Return balanced accuracy, F1 and kappa, which depend on true and predicted classes."""
    n_classes, n = samples.n_classes, weights.sum(0)
    support = sum_by(samples.targets, weights, size=n_classes)
    predicted = sum_by(samples.predicted, weights, size=n_classes)
    hit_class = torch.where(samples.correct, samples.targets, n_classes)
    hits = sum_by(hit_class, weights, size=n_classes + 1)[:n_classes]
    f1 = divide(2 * hits, support + predicted)
    numbers = torch.arange(n_classes, dtype=weights.dtype)
    distance = (samples.predicted - samples.targets).square()
    expected = (
        numbers.square() @ (support + predicted)
        - 2 * (numbers @ support) * (numbers @ predicted) / n
    )
    return {
        "balanced_accuracy": mean_defined(divide(hits, support)),
        "f1_macro": mean_defined(f1),
        "f1_weighted": (support * f1.nan_to_num()).sum(0) / n,
        "cohen_kappa": 1 - divide(n - hits.sum(0), n - (support * predicted).sum(0) / n),
        "quadratic_weighted_kappa": 1 - divide(distance.to(weights.dtype) @ weights, expected),
    }


def probability_metrics(samples: SingleLabel, weights: Tensor) -> dict[str, Tensor]:
    """Return log loss, Brier score and calibration error."""
    squared_error = samples.squared_error.double()
    if samples.n_classes == 2:
        squared_error = squared_error / 2
    gap = samples.correct.double() - samples.confidence.double()
    bins = confidence_bins(samples.confidence.double())
    gaps = sum_by(bins, gap[:, None] * weights, size=N_BINS)
    return {
        "log_loss": mean(-samples.log_prob.double().clamp(min=LOG_EPS), weights),
        "brier_score": mean(squared_error, weights),
        "expected_calibration_error": gaps.abs().sum(0) / weights.sum(0),
    }


def ranking_metrics(samples: SingleLabel, weights: Tensor) -> dict[str, Tensor]:
    """Return one-vs-rest AUROC and average precision, means over the classes that define them."""
    precision, auroc = class_means(samples.log_odds(), samples.targets, weights)
    return {"mean_average_precision": precision, "roc_auc": auroc}


def confidence_bins(confidence: Tensor) -> Tensor:
    """Return the number of each confidence's bin of equal width, int64.

    A bin holds its lower bound, the last one also 1. What rounding has put below a bound (1e-6) is
    on it, so that equal vote shares stay together.
    """
    return (confidence * N_BINS + 1e-6).floor().long().clamp(0, N_BINS - 1)
