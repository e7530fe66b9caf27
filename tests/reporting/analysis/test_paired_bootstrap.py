from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import r2_score

from layercache.errors import OptionError
from layercache.probing.results.predictions import Predictions
from layercache.reporting.analysis.paired_bootstrap import paired_bootstrap, paired_bootstrap_r2
from layercache.reporting.analysis.regression import squared_errors


def images(seed, n, gain):
    """Correctness of two heads on n images of 5 uneven classes; the first is better by `gain`."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(5, size=n, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    base = rng.random(n) < 0.7
    return np.where(rng.random(n) < abs(gain) * 2, rng.random(n) < 0.7 + gain, base), base, labels


def test_paired_bootstrap_interval_agrees_with_scipy():
    a, b, y = images(1, 400, 0.2)
    ours = paired_bootstrap(a, b, labels=y, resamples=4000)
    parts = [(a.astype(float) - b)[y == c] for c in range(5)]
    assert ours.gain == pytest.approx(np.mean([part.mean() for part in parts]))
    # scipy resamples several samples independently, which is resampling within the classes
    scipys = stats.bootstrap(
        parts,
        lambda *c, axis: np.mean([x.mean(axis=axis) for x in c], axis=0),
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert ours.low == pytest.approx(scipys.low, abs=0.006)
    assert ours.high == pytest.approx(scipys.high, abs=0.006)


def test_paired_bootstrap_detects_an_effect_only_if_there_is_one():
    strong = paired_bootstrap(
        *images(2, 600, 0.2)[:2], labels=images(2, 600, 0.2)[2], resamples=500
    )
    assert strong.low > 0
    assert strong.p == pytest.approx(1 / 501)
    same = images(3, 300, 0.2)[1]
    none = paired_bootstrap(same, same, labels=np.zeros(300, int), resamples=200)
    assert (none.gain, none.low, none.high, none.p) == (0, 0, 0, 1)
    p = [
        paired_bootstrap(*_pair(seed), labels=np.arange(200) % 4, resamples=200).p
        for seed in range(60)
    ]
    assert np.mean(np.array(p) <= 0.05) < 0.15


def _pair(seed):
    rng = np.random.default_rng(seed)
    return rng.random(200) < 0.7, rng.random(200) < 0.7


def test_paired_bootstrap_weighs_classes_equally():
    labels = np.array([0] * 98 + [1] * 2)
    better, base = np.zeros(100), np.zeros(100)
    better[98:] = 1
    assert paired_bootstrap(better, base, labels=labels, resamples=50).gain == pytest.approx(0.5)
    with pytest.raises(OptionError, match="three vectors over the same images"):
        paired_bootstrap(better, base[:-1], labels=labels)


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
