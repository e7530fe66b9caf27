from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from layercache.errors import OptionError
from layercache.reporting.analysis.significance import benjamini_hochberg, wilcoxon_greater


def p_by_enumeration(d):
    """All sign patterns of the ranks, one by one."""
    d = np.asarray([v for v in d if v != 0])
    ranks = stats.rankdata(abs(d))
    observed = ranks[d > 0].sum()
    sums = [
        sum(r for r, keep in zip(ranks, signs, strict=True) if keep)
        for signs in product([0, 1], repeat=len(d))
    ]
    return np.mean([s >= observed - 1e-9 for s in sums])


@pytest.mark.parametrize(
    "d",
    [
        [0.3, 1.2, -0.1, 2.0, 0.7, 0.05, 1.1, -0.2, 0.9],
        [1.0, 1.0, -1.0, 2.0, 2.0, 3.0],  # ties
        [0.5, 0.0, 0.7, 0.0, -0.6, 0.9],  # zeros
        [0.4],
    ],
)
def test_wilcoxon_p_equals_enumeration_of_all_signs(d):
    assert wilcoxon_greater(d).p == pytest.approx(p_by_enumeration(d))


def test_wilcoxon_without_ties_equals_scipy_exact():
    d = np.random.default_rng(0).normal(0.4, 1, size=11)
    expected = stats.wilcoxon(d, alternative="greater", method="exact")
    ours = wilcoxon_greater(d)
    assert (ours.p, ours.statistic) == (pytest.approx(expected.pvalue), expected.statistic)
    many = np.random.default_rng(1).normal(0.4, 1, size=30)
    assert wilcoxon_greater(many).p == pytest.approx(
        stats.wilcoxon(many, alternative="greater", method="exact").pvalue
    )


def test_wilcoxon_of_extreme_differences_has_known_p():
    nine = wilcoxon_greater(np.arange(1, 10))
    assert nine.p == nine.smallest_p == 2**-9
    assert wilcoxon_greater(-np.arange(1, 10)).p == 1
    assert wilcoxon_greater(np.zeros(5)).p == 1
    with pytest.raises(OptionError, match="one finite difference per model"):
        wilcoxon_greater([1.0, np.nan])


def test_wilcoxon_without_an_effect_is_significant_at_its_rate():
    rng = np.random.default_rng(7)
    p = [wilcoxon_greater(rng.normal(size=9)).p for _ in range(150)]
    assert np.mean(np.array(p) <= 0.05) < 0.10
    # twenty datasets without an effect: nothing is left after the adjustment
    assert (benjamini_hochberg(p[:20]) > 0.05).all()


def test_benjamini_hochberg_equals_the_computation_by_hand():
    p = np.array([0.01, 0.04, 0.03, 0.5])
    # sorted 0.01 0.03 0.04 0.5 times 4/rank: 0.04, 0.06, 0.0533, 0.5;
    # running minimum from the right: 0.04, 0.0533, 0.0533, 0.5
    np.testing.assert_allclose(benjamini_hochberg(p), [0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert benjamini_hochberg([]).shape == (0,)
