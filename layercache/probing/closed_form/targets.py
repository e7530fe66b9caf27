"""Class numbers as targets of a least-squares fit, and the weights that balance the classes.

Shapes: N samples, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return one-hot targets (N, C) float64 of class numbers (N,)."""
    return torch.nn.functional.one_hot(labels, classes).double()


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Return a weight for each sample, float64 (N,), that gives every class the same total.

    The weight is N / (number of classes that occur * samples of the class), scikit-learn's
    `class_weight="balanced"`; the weights sum to N.

    Args:
        labels: Class numbers (N,).
        classes: C.
    """
    counts = torch.bincount(labels, minlength=classes).double()
    return len(labels) / ((counts > 0).sum() * counts[labels])
