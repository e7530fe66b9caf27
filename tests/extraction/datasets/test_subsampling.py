from collections import Counter
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from layercache.extraction.datasets.subsampling import apportion, draw_stratified, draw_uniform, permutation

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(lambda x: np.asarray(x, np.int64))


def test_draw_is_the_one_of_every_machine():
    """Written down once: a change here would change data sets."""
    assert permutation(10, seed=0, key="train").tolist() == PINNED
    assert permutation(10, seed=1, key="train").tolist() != PINNED
    assert permutation(10, seed=0, key="test").tolist() != PINNED


PINNED = [0, 2, 1, 8, 7, 4, 9, 6, 3, 5]


def test_shuffle_is_a_permutation():
    assert sorted(permutation(1000, seed=3, key="x")) == list(range(1000))
    assert permutation(0, seed=3, key="x").shape == (0,)


@given(labels=LABELS, part=st.floats(0, 1), seed=st.integers(0, 3))
def test_stratified_keeps_shares_and_order(labels, part, seed):
    n = round(part * len(labels))
    rows = draw_stratified(labels, n, seed=seed, key="train")
    assert len(rows) == n
    assert rows.tolist() == sorted(set(rows.tolist()))
    drawn, whole = Counter(labels[rows].tolist()), Counter(labels.tolist())
    for c, total in whole.items():
        exact = n * total / len(labels)
        if n >= len(whole):
            assert drawn[c] >= 1
        if all(n * t / len(labels) >= 1 for t in whole.values()):
            assert abs(drawn[c] - exact) < 1
        assert drawn[c] <= total


def test_shares_by_hand():
    assert apportion(np.array([98, 1, 1]), 4).tolist() == [2, 1, 1]
    assert apportion(np.array([98, 1, 1]), 2).tolist() == [2, 0, 0]
    assert apportion(np.array([50, 0, 50]), 3).tolist() == [2, 0, 1]
    assert apportion(np.array([3, 4]), 100).tolist() == [3, 4]


@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(sum), part=st.floats(0, 1)
)
def test_shares_are_those_of_the_largest_remainder(counts, part):
    n = round(part * sum(counts))
    exact = [Fraction(n * c, sum(counts)) for c in counts]
    expected = [int(e) for e in exact]
    for c in sorted(range(len(counts)), key=lambda c: (expected[c] - exact[c], c))[
        : n - sum(expected)
    ]:
        expected[c] += 1
    got = apportion(np.asarray(counts), n).tolist()
    assert sum(got) == n
    if all(e >= 1 or c == 0 for e, c in zip(exact, counts, strict=True)):
        assert got == expected
    elif n >= sum(c > 0 for c in counts):
        assert all((g >= 1) == (c > 0) for g, c in zip(got, counts, strict=True))


def test_every_row_of_a_class_is_drawn_some_time():
    labels = np.repeat([0, 1], 10)
    seen = {
        row for seed in range(60) for row in draw_stratified(labels, 4, seed=seed, key="train").tolist()
    }
    assert seen == set(range(20))


def test_plain_is_ascending_and_of_the_size():
    rows = plain(50, 20, seed=0, key="train")
    assert len(rows) == 20
    assert np.all(np.diff(rows) > 0)
