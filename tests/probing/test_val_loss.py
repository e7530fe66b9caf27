from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from layercache.probing.val_loss import sample_losses


def test_sample_losses_equal_the_log_loss_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 40, 5)).astype(np.float32) * 3
    labels = rng.integers(0, 5, 40)
    losses = sample_losses(torch.from_numpy(logits), torch.from_numpy(labels))
    assert (losses.shape, losses.dtype) == ((2, 40), torch.float64)
    for row, single in zip(losses, logits, strict=True):
        p = np.exp(single - single.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        assert float(row.mean()) == pytest.approx(log_loss(labels, p), rel=1e-5)


def test_sample_losses_of_multi_label_samples_average_over_classes() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(30, 4)), rng.integers(0, 2, (30, 4)).astype(np.uint8)
    losses = sample_losses(torch.from_numpy(logits), torch.from_numpy(targets))
    p = 1 / (1 + np.exp(-logits))
    expected = [log_loss(targets[:, c], p[:, c], labels=[0, 1]) for c in range(4)]
    assert float(losses.mean()) == pytest.approx(np.mean(expected), rel=1e-5)
