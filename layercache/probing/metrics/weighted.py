"""Sums over samples for many sets of sample weights at once.

A bootstrap resample is a weight per sample: how often it was drawn. Every metric is computed from
weighted sums, for all resamples together; its value on the samples themselves has weights of 1.

Shapes: N samples, R sets of weights, S sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

NAN = float("nan")


def sum_by(index: Tensor, weights: Tensor, *, size: int) -> Tensor:
    """Return the sum of the weights of each index, (S, R).

    Args:
        index: Number of the sum that a sample belongs to, int64 (N,).
        weights: (N, R).
        size: S.
    """
    sums = torch.zeros(size, weights.shape[1], dtype=weights.dtype)
    return sums.index_add_(0, index, weights)


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of values (N,), (R,)."""
    return divide(values.to(weights.dtype) @ weights, weights.sum(0))


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the quotient, NaN where the denominator is 0."""
    return torch.where(denominator == 0, NAN, numerator / denominator)


def mean_defined(values: Tensor) -> Tensor:
    """Return the mean over the first axis without NaN; NaN where nothing is left."""
    return values.nanmean(0)
