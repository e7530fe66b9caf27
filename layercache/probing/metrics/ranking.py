"""Average precision and the area under the ROC curve, for many sets of sample weights at once.

Shapes: N samples, K columns that are ranked together, R sets of weights, U distinct scores of
positives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layercache.probing.metrics.weighted import divide


def average_precision_and_auroc(
    scores: Tensor, positive: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the average precision and the AUROC, both (R,).

    Average precision is the sum over thresholds of the gain in recall times the precision there,
    AUROC the probability that a positive scores above a negative, ties counting half. Both follow
    from the weights of the samples between the scores of two positives: with the U distinct scores
    of positives in ascending order, a sample is in segment 2u + 1 if its score is the u-th of them,
    and in segment 2u if it lies between the (u-1)-th and the u-th.

    Args:
        scores: (N, K).
        positive: bool (N, K).
        weights: Weights of the samples, (N, R).

    Returns:
        NaN without a positive; the AUROC also without a negative.
    """
    levels = torch.unique(scores[positive])
    n_segments = 2 * len(levels) + 1
    # sums of whole numbers below 2^24 are exact in float32, which takes half the time
    exact = weights.dtype if weights.sum(0).max() * scores.shape[1] >= 2**24 else torch.float32
    counts = weights.to(exact) if bool((weights == weights.round()).all()) else weights
    sums = torch.zeros(2 * n_segments, counts.shape[1], dtype=counts.dtype)
    for column in range(scores.shape[1]):
        values = scores[:, column].contiguous()
        segment = torch.searchsorted(levels, values) + torch.searchsorted(
            levels, values, right=True
        )
        sums.index_add_(0, segment + n_segments * positive[:, column], counts)
    negatives, positives = sums.double().view(2, n_segments, -1)
    n_positive, n_negative = positives.sum(0), negatives.sum(0)
    positives, tied = positives[1::2], negatives[1::2]
    below = negatives.cumsum(0)[0:-1:2]
    auroc = divide((positives * (below + tied / 2)).sum(0), n_positive * n_negative)
    hits = positives.flip(0).cumsum(0).flip(0)
    false_alarms = n_negative - below
    precision = divide(hits, hits + false_alarms).nan_to_num()
    return divide((positives * precision).sum(0), n_positive), auroc
