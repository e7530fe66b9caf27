from __future__ import annotations

import pytest
import torch

from layercache.probing.metrics import compute
from layercache.probing.scan.scores import score


def test_score_of_classes_is_the_balanced_accuracy_of_the_metrics() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(50, 4, generator=generator)
    y = torch.randint(0, 3, (50,), generator=generator)  # class 3 does not occur
    expected = compute(outputs, y, task="classification", names=["balanced_accuracy"])
    assert score(outputs, y, task="classification") == pytest.approx(expected["balanced_accuracy"])
