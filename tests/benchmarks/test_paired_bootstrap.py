"""The paired bootstrap against scikit-learn's balanced accuracy, and what it must not claim."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from benchmarks.comparison.paired_bootstrap import Outcome, gain


def outcome(first: float, second: float, *, n: int = 400, seeds: int = 4, seed: int = 0) -> Outcome:
    rng = np.random.default_rng(seed)
    targets = rng.choice(5, n, p=(0.4, 0.3, 0.1, 0.1, 0.1))
    return Outcome(targets, rng.random((seeds, n)) < first, rng.random((seeds, n)) < second)


def test_gain_mean_is_the_difference_of_balanced_accuracies() -> None:
    tasks = [outcome(0.8, 0.7, seed=1), outcome(0.5, 0.6, n=300, seed=2)]
    expected = []
    for task in tasks:
        for first, second in zip(task.first, task.second, strict=True):
            predicted = [np.where(right, task.targets, -1) for right in (first, second)]
            with pytest.warns(UserWarning, match="y_pred contains classes"):
                scores = [balanced_accuracy_score(task.targets, p) for p in predicted]
            expected.append(100 * (scores[0] - scores[1]))
    assert gain(tasks).mean == pytest.approx(np.mean(expected))


def test_gain_interval_excludes_zero_only_for_a_real_difference() -> None:
    better = gain([outcome(0.9, 0.7)])
    equal = gain([outcome(0.8, 0.8)])
    assert 0 < better.low < better.mean < better.high
    assert equal.low < 0 < equal.high


def test_gain_of_a_method_over_itself_is_zero() -> None:
    task = outcome(0.8, 0.7)
    same = gain([Outcome(task.targets, task.first, task.first)])
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_gain_interval_has_the_width_of_the_normal_approximation() -> None:
    task = outcome(0.8, 0.7, n=2000, seeds=1)
    result = gain([task], resamples=4000)
    variance = 0.0
    for label in range(5):
        d = task.first[0, task.targets == label] * 1.0 - task.second[0, task.targets == label]
        variance += d.var() / len(d) / 25
    assert result.high - result.low == pytest.approx(100 * 2 * 1.96 * variance**0.5, rel=0.05)
