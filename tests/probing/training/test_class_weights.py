from __future__ import annotations

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight

from layercache.probing.training.class_weights import balanced_class_weights


def test_balanced_class_weights_equal_sklearn_and_are_zero_without_samples() -> None:
    labels = torch.tensor([0] * 7 + [1] * 2 + [3] * 11)
    expected = compute_class_weight(
        "balanced", classes=np.array([0, 1, 3]), y=labels.numpy()
    )  # N / (3 n_c): sklearn counts only the classes that occur
    weights = balanced_class_weights(labels, 4)
    torch.testing.assert_close(weights[[0, 1, 3]].double(), torch.tensor(expected) * 3 / 4)
    assert weights[2] == 0
