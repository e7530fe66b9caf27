from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import r2_score

from layercache.errors import OptionError
from layercache.probing.results.predictions import Predictions
from layercache.reporting.analysis.regression import (
    largest_errors,
    paired_bootstrap_r2,
    squared_errors,
)


def predictions(noise: float, *, seed: int, columns: int = 1, ids: str = "a") -> Predictions:
    """Return predictions of 150 images that are off by normal noise."""
    targets = np.random.default_rng(0).normal(5, 2, size=(150, columns))
    errors = np.random.default_rng(seed).normal(0, noise, size=targets.shape)
    return Predictions(logits=(targets + errors).astype(np.float32), targets=targets, ids=ids)


@pytest.mark.parametrize("columns", [1, 3])
def test_gain_is_the_difference_of_r2_and_its_interval_that_of_resampled_r2(columns: int) -> None:
    one, two = predictions(0.5, seed=1, columns=columns), predictions(1.0, seed=2, columns=columns)
    a, b = squared_errors([one]), squared_errors([two])
    assert a is not None
    assert b is not None
    result = paired_bootstrap_r2(a, b, resamples=1000)
    assert result.gain == pytest.approx(
        r2_score(one.targets, one.logits) - r2_score(two.targets, two.logits)
    )
    rng = np.random.default_rng(9)
    gains = []
    for _ in range(1000):
        rows = rng.integers(0, 150, 150)
        gains.append(
            r2_score(one.targets[rows], one.logits[rows])
            - r2_score(one.targets[rows], two.logits[rows])
        )
    low, high = np.quantile(gains, [0.025, 0.975])
    assert result.low == pytest.approx(low, abs=0.15 * (high - low))
    assert result.high == pytest.approx(high, abs=0.15 * (high - low))
    assert (result.sign, result.n_images) == (1, 150)


def test_equally_good_heads_rarely_show_a_difference() -> None:
    signs = []
    for seed in range(0, 40, 2):
        a, b = (squared_errors([predictions(0.5, seed=s)]) for s in (seed, seed + 1))
        assert a is not None
        assert b is not None
        signs.append(paired_bootstrap_r2(a, b, resamples=200).sign)
    assert np.count_nonzero(signs) <= 4


def test_heads_tested_on_different_images_are_not_compared() -> None:
    one, other = predictions(0.5, seed=1), predictions(0.5, seed=1, ids="b")
    assert squared_errors([one, other]) is None
    a, b = squared_errors([one]), squared_errors([other])
    assert a is not None
    assert b is not None
    with pytest.raises(OptionError, match="tested on the same images"):
        paired_bootstrap_r2(a, b)


def test_largest_errors_come_first() -> None:
    targets = np.array([[1.0], [2.0], [3.0]])
    fusion = Predictions(logits=np.float32([[1.5], [2.0], [1.0]]), targets=targets, ids="a")
    baseline = replace(fusion, logits=np.float32([[0.0], [0.0], [0.0]]))
    table = largest_errors(fusion, baseline, ids=["x", "y", "z"], columns=["age"])
    assert table["id"].tolist() == ["z", "x", "y"]
    assert table["fusion_error"].tolist() == [-2.0, 0.5, 0.0]
    assert table["baseline_error"].tolist() == [-3.0, -1.0, -2.0]
