"""Average precision and the area under the ROC curve, for many sets of sample weights at once.

Shapes: N samples, K columns that are ranked together, R sets of weights, U distinct scores of
positives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layercache.probing.metrics.weighted import NAN, divide, mean_defined, sum_by


def class_means(scores: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return average precision and AUROC, means over the classes that define them, both (R,).

    Args:
        scores: (N, C).
        targets: Whether a sample is of a class, bool (N, C); or its class, int64 (N,).
        weights: (N, R).
    """
    counts = as_counts(weights)
    results = []
    for c in range(scores.shape[1]):
        positive = targets[:, c] if targets.dim() == 2 else targets == c
        if bool(positive.any()):
            results.append(average_precision_and_auroc(scores[:, [c]], positive[:, None], counts))
    if not results:
        undefined = weights.new_full((weights.shape[1],), NAN)
        return undefined, undefined
    precision, auroc = (torch.stack(values) for values in zip(*results, strict=True))
    return mean_defined(precision), mean_defined(auroc)


def as_counts(weights: Tensor) -> Tensor:
    """Return weights in float32, which takes half the time, where all of their sums are exact."""
    whole = bool((weights == weights.round()).all())
    return weights.float() if whole and float(weights.sum(0).max()) < 2**24 else weights


def average_precision_and_auroc(
    scores: Tensor, positive: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the average precision and the AUROC, both float64 (R,).

    Average precision is the sum over thresholds of the gain in recall times the precision there,
    AUROC the probability that a positive scores above a negative, ties counting half. Both follow
    from the weights of the samples between the scores of two positives: with the U distinct scores
    of positives in ascending order, a sample is in segment 2u + 1 if its score is the u-th of them,
    and in segment 2u if it lies between the (u-1)-th and the u-th.

    Args:
        scores: (N, K).
        positive: bool (N, K).
        counts: Weights of the samples, (N, R), see `as_counts`.

    Returns:
        NaN without a positive; the AUROC also without a negative.
    """
    levels = torch.unique(scores[positive])
    n_segments = 2 * len(levels) + 1
    # each column has sums of its own, as float32 sums over all of them may not be exact
    sums = torch.zeros(2 * n_segments, counts.shape[1], dtype=torch.float64)
    for column in range(scores.shape[1]):
        values = scores[:, column].contiguous()
        segment = torch.searchsorted(levels, values)
        segment += torch.searchsorted(levels, values, right=True)
        segment += n_segments * positive[:, column]
        sums += sum_by(segment, counts, size=2 * n_segments)
    negatives, positives = sums.view(2, n_segments, -1)
    n_positive, n_negative = positives.sum(0), negatives.sum(0)
    positives, tied = positives[1::2], negatives[1::2]
    below = negatives.cumsum(0)[0:-1:2]
    auroc = divide((positives * (below + tied / 2)).sum(0), n_positive * n_negative)
    hits = positives.flip(0).cumsum(0).flip(0)
    false_alarms = n_negative - below
    precision = divide(hits, hits + false_alarms).nan_to_num()
    return divide((positives * precision).sum(0), n_positive), auroc
