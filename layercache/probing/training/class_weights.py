"""Weights of the classes in the cross-entropy.

Shapes: N samples, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_class_weights(
    labels: Tensor, n_classes: int, sample_weight: Tensor | None = None
) -> Tensor:
    """Return weights N / (C n_c) of the cross-entropy, float32 (C,), 0 for an empty class.

    Multi-label targets get no such weights: n_c does not partition the samples, and mean average
    precision, by which their heads are selected, ranks within a class and so does not depend on a
    class's weight.

    Args:
        labels: int64 (N,).
        n_classes: C.
        sample_weight: Weights of the samples, (N,); then N and n_c are sums of them.
    """
    if sample_weight is None:
        counts = torch.bincount(labels.cpu(), minlength=n_classes).double()
        weights = torch.where(counts > 0, len(labels) / (n_classes * counts.clamp(min=1)), 0.0)
        return weights.float()
    sums = torch.bincount(labels.cpu(), sample_weight.cpu().double(), minlength=n_classes)
    balanced = sums.sum() / (n_classes * sums)
    return torch.where(sums > 0, balanced, 0.0).float()
