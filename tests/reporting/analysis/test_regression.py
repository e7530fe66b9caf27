from __future__ import annotations

from dataclasses import replace

import numpy as np

from layercache.probing.results.predictions import Predictions
from layercache.reporting.analysis.regression import largest_errors


def test_largest_errors_come_first() -> None:
    targets = np.array([[1.0], [2.0], [3.0]])
    fusion = Predictions(logits=np.float32([[1.5], [2.0], [1.0]]), targets=targets, ids="a")
    baseline = replace(fusion, logits=np.float32([[0.0], [0.0], [0.0]]))
    table = largest_errors(fusion, baseline, ids=["x", "y", "z"], columns=["age"])
    assert table["id"].tolist() == ["z", "x", "y"]
    assert table["fusion_error"].tolist() == [-2.0, 0.5, 0.0]
    assert table["baseline_error"].tolist() == [-3.0, -1.0, -2.0]
