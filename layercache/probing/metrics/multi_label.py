"""Metrics of multi-label classification. Definitions: docs/metrics.md.

Every function returns all metrics of its kind, each (R,), for weights (N, R).

Shapes: N samples, C classes, R sets of weights.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from layercache.probing.metrics.classification import LOG_EPS, N_BINS, confidence_bins
from layercache.probing.metrics.ranking import as_counts, average_precision_and_auroc, class_means
from layercache.probing.metrics.samples import MultiLabel
from layercache.probing.metrics.weighted import divide, mean, mean_defined, sum_by


def count_metrics(samples: MultiLabel, weights: Tensor) -> dict[str, Tensor]:
    """Return F1, where a class is predicted if its probability is above 0.5."""
    predicted, targets = samples.logits > 0, samples.targets
    hits = (predicted & targets).double().T @ weights
    support = targets.double().T @ weights
    total = support + predicted.double().T @ weights
    f1 = divide(2 * hits, total)
    return {
        "f1_macro": mean_defined(f1),
        "f1_micro": divide(2 * hits.sum(0), total.sum(0)),
        "f1_weighted": divide((support * f1.nan_to_num()).sum(0), support.sum(0)),
    }


def probability_metrics(samples: MultiLabel, weights: Tensor) -> dict[str, Tensor]:
    """Return log loss, Brier score and calibration error, means over samples and classes."""
    logits, targets = samples.logits, samples.targets
    probs = logits.sigmoid()
    losses = softplus(torch.where(targets, -logits, logits)).clamp(max=-LOG_EPS)
    gaps = torch.zeros(N_BINS, weights.shape[1], dtype=weights.dtype)
    for c in range(logits.shape[1]):
        gap = targets[:, c].double() - probs[:, c]
        gaps += sum_by(confidence_bins(probs[:, c]), gap[:, None] * weights, size=N_BINS)
    return {
        "log_loss": mean(losses.mean(1), weights),
        "brier_score": mean((probs - targets.double()).square().mean(1), weights),
        "expected_calibration_error": gaps.abs().sum(0) / (weights.sum(0) * logits.shape[1]),
    }


def ranking_metrics(samples: MultiLabel, weights: Tensor) -> dict[str, Tensor]:
    """Return average precision and AUROC, means over the classes that define them."""
    precision, auroc = class_means(samples.logits, samples.targets, weights)
    return {"mean_average_precision": precision, "roc_auc": auroc}


def micro_ranking_metrics(samples: MultiLabel, weights: Tensor) -> dict[str, Tensor]:
    """Return average precision and AUROC over all pairs of sample and class."""
    counts = as_counts(weights)
    precision, auroc = average_precision_and_auroc(samples.logits, samples.targets, counts)
    return {"average_precision_micro": precision, "roc_auc_micro": auroc}
