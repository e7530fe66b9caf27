from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.errors import OptionError
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.datasets.in_memory import InMemoryDataset
from layercache.extraction.datasets.subsampling import (
    apportion,
    draw_stratified,
    draw_uniform,
    limit_samples,
    permutation,
)

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(lambda x: np.asarray(x, np.int64))


def test_permutation_is_the_same_on_every_machine():
    """Pinned, since a change here would change datasets."""
    assert permutation(10, seed=0, key="train").tolist() == PINNED
    assert permutation(10, seed=1, key="train").tolist() != PINNED
    assert permutation(10, seed=0, key="test").tolist() != PINNED


PINNED = [0, 2, 1, 8, 7, 4, 9, 6, 3, 5]


def test_permutation_has_every_row_once():
    assert sorted(permutation(1000, seed=3, key="x")) == list(range(1000))
    assert permutation(0, seed=3, key="x").shape == (0,)


@given(labels=LABELS, part=st.floats(0, 1), seed=st.integers(0, 3))
def test_draw_stratified_keeps_proportions_and_order(labels, part, seed):
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


def test_apportion_equals_results_by_hand():
    assert apportion(np.array([98, 1, 1]), 4).tolist() == [2, 1, 1]
    assert apportion(np.array([98, 1, 1]), 2).tolist() == [2, 0, 0]
    assert apportion(np.array([50, 0, 50]), 3).tolist() == [2, 0, 1]
    assert apportion(np.array([3, 4]), 100).tolist() == [3, 4]


@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(sum), part=st.floats(0, 1)
)
def test_apportion_equals_the_largest_remainder(counts, part):
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


def test_draw_stratified_over_seeds_draws_every_row():
    labels = np.repeat([0, 1], 10)
    seen = {
        row
        for seed in range(60)
        for row in draw_stratified(labels, 4, seed=seed, key="train").tolist()
    }
    assert seen == set(range(20))


def test_draw_uniform_is_ascending_and_of_the_size():
    rows = draw_uniform(np.zeros(50), 20, seed=0, key="train")
    assert len(rows) == 20
    assert np.all(np.diff(rows) > 0)


def test_limit_samples_is_stratified_in_order_and_loads_the_right_images(many, pictures):
    few = limit_samples(many, 12, seed=1)
    samples = few.split("train")
    assert np.bincount(samples.labels).tolist() == [8, 4]
    assert samples.ids == sorted(samples.ids)
    pictures.check(few, "train", [(i, "ab"[int(i[:2]) % 3 == 2], int(i[:2])) for i in samples.ids])


def test_limit_samples_of_a_smaller_split_returns_it(many):
    assert limit_samples(many, 12, seed=1).split("test") is many.split("test")
    assert limit_samples(many, None) is many


def test_limit_samples_with_another_seed_draws_others(many):
    assert (
        limit_samples(many, 12, seed=1).split("train").ids
        != limit_samples(many, 12, seed=2).split("train").ids
    )
    assert (
        limit_samples(many, 12, seed=1).split("train").ids
        == limit_samples(many, 12, seed=1).split("train").ids
    )


def test_limit_samples_of_a_multi_label_split_draws_rows(tmp_path):
    samples = FileSamples(str(tmp_path), [str(i) for i in range(20)], np.eye(20, 3, dtype=np.uint8))
    few = limit_samples(
        InMemoryDataset(
            name="m", classes=("a", "b", "c"), samples={"train": samples}, multi_label=True
        ),
        5,
    ).split("train")
    assert few.labels.shape == (5, 3)
    np.testing.assert_array_equal(few.labels, samples.labels[[int(i) for i in few.ids]])


@pytest.mark.parametrize(
    ("n", "seed", "text"),
    [(0, 0, "at least 1 sample, got 0"), (5, -1, "seed of at least 0, got -1")],
)
def test_limit_samples_out_of_range_raises(many, n, seed, text):
    with pytest.raises(OptionError, match=text):
        limit_samples(many, n, seed=seed)


def test_draw_stratified_with_unlabelled_samples_keeps_their_proportion():
    labels = np.repeat([-1, 0, 1], [20, 40, 40])
    drawn = draw_stratified(labels, 10, seed=0, key="x")
    assert np.bincount(labels[drawn] + 1).tolist() == [2, 4, 4]
