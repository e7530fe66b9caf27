"""Metrics of regression. Definitions: docs/metrics.md.

Every function returns all metrics of its kind, each (R,), for weights (N, R). With several targets
they are means over those that define them.

Shapes: N samples, T targets, R sets of weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layercache.probing.metrics.samples import Regression
from layercache.probing.metrics.weighted import divide, mean, mean_defined, sum_by


def error_metrics(samples: Regression, weights: Tensor) -> dict[str, Tensor]:
    """Return R2, mean absolute error and root mean squared error."""
    columns = list(zip(samples.values.T, samples.targets.T, strict=True))
    return {
        "r2": mean_defined(torch.stack([_r2(x, y, weights) for x, y in columns])),
        "mae": mean((samples.values - samples.targets).abs().mean(1), weights),
        "rmse": torch.stack([mean((x - y).square(), weights).sqrt() for x, y in columns]).mean(0),
    }


def rank_correlation(samples: Regression, weights: Tensor) -> dict[str, Tensor]:
    """Return Spearman's rank correlation."""
    correlations = [
        _correlation(_ranks(x, weights), _ranks(y, weights), weights)
        for x, y in zip(samples.values.T, samples.targets.T, strict=True)
    ]
    return {"spearman": mean_defined(torch.stack(correlations))}


def _r2(values: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return 1 - sum of squared errors / sum of squared deviations; NaN of constant targets."""
    centered = targets - targets.mean()
    total = centered.square() @ weights - (centered @ weights).square() / weights.sum(0)
    # the deviations of equal targets are a rounding error of their squares
    scale = centered.square() @ weights
    total = torch.where(total <= 1e-14 * scale, 0.0, total)
    return 1 - divide((values - targets).square() @ weights, total)


def _ranks(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean rank of each sample among as many copies as its weight, minus the mean."""
    levels, index = torch.unique(values, return_inverse=True)
    counts = sum_by(index, weights, size=len(levels))
    middle = counts.cumsum(0) - counts / 2
    return (middle - weights.sum(0) / 2)[index]


def _correlation(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted correlation of centered x and y, both (N, R); NaN if one is constant."""
    covariance, *variances = ((weights * a * b).sum(0) for a, b in ((x, y), (x, x), (y, y)))
    return divide(covariance, (variances[0] * variances[1]).sqrt())
