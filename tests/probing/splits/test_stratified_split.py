from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.errors import OptionError, ProbeError
from layercache.probing.splits.stratified_split import (
    check_labels,
    folds,
    strata,
    stratified,
    subset,
)

labels_of = st.lists(st.integers(0, 6), min_size=2, max_size=120).map(
    lambda v: np.array(v, dtype=np.int64)
)


@given(labels_of, st.integers(0, 5))
def test_stratified_draws_a_fifth_in_proportion_and_leaves_every_class_a_sample(
    labels: np.ndarray, seed: int
) -> None:
    rows = np.arange(len(labels))
    rest, drawn = stratified(labels, rows, fraction=0.2, seed=seed)
    assert np.array_equal(np.sort(np.concatenate([rest, drawn])), rows)
    assert set(labels[rest]) == set(labels)
    assert len(drawn) <= round(0.2 * len(rows))
    for k in set(labels.tolist()):
        assert abs((labels[drawn] == k).sum() - 0.2 * (labels == k).sum()) < 1
    if len(rows) >= 5 * 7:  # enough for every class to give its share
        assert len(drawn) >= round(0.2 * len(rows)) - (np.bincount(labels) == 1).sum()


@given(labels_of, st.integers(0, 5), st.integers(1, 6))
def test_subset_by_shots_equals_draws_class_by_class(
    labels: np.ndarray, seed: int, shots: int
) -> None:
    rng = np.random.default_rng([seed, 0x5407])
    expected = [
        row
        for k in sorted(set(labels.tolist()))
        for row in rng.permutation(np.flatnonzero(labels == k))[:shots]
    ]
    assert subset(labels, shots=shots, fraction=None, seed=seed).tolist() == sorted(expected)


def test_folds_of_fixed_labels_are_the_same_in_every_release() -> None:
    labels = np.random.default_rng(0).integers(0, 4, 40)
    [fold] = folds(labels, np.arange(3, 40), shots=None, seed=7)
    assert fold.val.tolist() == [9, 16, 21, 29, 34, 36, 38]


def test_folds_depend_on_the_seed_only() -> None:
    labels = np.arange(60) % 3
    first, again, other = (
        folds(labels, np.arange(60), shots=None, seed=s)[0].val for s in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(np.bincount(labels[first]), [4, 4, 4])


def test_folds_keep_a_class_of_one_sample_in_train() -> None:
    labels = np.array([0] * 20 + [1] * 20 + [2])
    for seed in range(5):
        fold = folds(labels, np.arange(41), shots=None, seed=seed)[0]
        assert 40 in fold.train
        assert 40 not in fold.val


def test_folds_with_nothing_to_hold_out_are_refused() -> None:
    with pytest.raises(
        ProbeError, match="3 training samples in 3 classes leave none for validation"
    ):
        folds(np.arange(3), np.arange(3), shots=None, seed=0)


@pytest.mark.parametrize("shots", [1, 2, 3, 5, 10])
def test_subset_by_shots_is_drawn_per_class_and_contains_its_folds(shots: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 25))
    rows = subset(labels, shots=shots, fraction=None, seed=3)
    assert np.array_equal(np.bincount(labels[rows]), [shots] * 4)
    parts = folds(labels, rows, shots=shots, seed=3)
    assert len(parts) == (0 if shots == 1 else shots if shots < 5 else 1)
    for fold in parts:
        assert not set(fold.train) & set(fold.val)
        assert set(fold.train) | set(fold.val) == set(rows)
        assert np.array_equal(np.bincount(labels[fold.val]), [max(1, shots // 5)] * 4)


def test_subset_by_shots_differs_between_seeds_and_takes_all_of_a_small_class() -> None:
    labels = np.array([0] * 50 + [1] * 2)
    a, b = (subset(labels, shots=5, fraction=None, seed=s) for s in (0, 1))
    assert np.bincount(labels[a]).tolist() == [5, 2]
    assert not np.array_equal(a, b)


@given(labels_of, st.floats(0.05, 1.0))
def test_subset_by_fraction_keeps_every_class(labels: np.ndarray, fraction: float) -> None:
    rows = subset(labels, shots=None, fraction=fraction, seed=0)
    assert set(labels[rows]) == set(labels)
    assert len(rows) >= round(fraction * len(labels)) - 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"shots": 0}, "at least 1"),
        ({"fraction": 1.5}, "at most 1"),
        ({"shots": 1, "fraction": 0.5}, "got both"),
    ],
)
def test_subset_with_invalid_options_is_refused(options: dict[str, float], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        subset(np.array([0, 1]), **{"shots": None, "fraction": None, "seed": 0, **options})


def test_strata_of_multi_label_samples_are_their_rarest_classes() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]], dtype=np.uint8)
    assert strata(labels).tolist() == [0, 1, 2, 3]


def test_check_labels_counts_classes_and_refuses_invalid_labels() -> None:
    assert check_labels(np.array([0, 2, 2]), ("a", "b", "c"), where="train").tolist() == [1, 0, 2]
    with pytest.raises(
        ProbeError,
        match=r"train: expected labels 0 to 1 \(2 classes\), got 1 samples with others, such as 2",
    ):
        check_labels(np.array([0, 1, 2]), ("a", "b"), where="train")
    with pytest.raises(ProbeError, match="only class 'b' occurs"):
        check_labels(np.array([1, 1]), ("a", "b"), where="train")
    with pytest.raises(ProbeError, match="0 and 1, one column for each of 2 classes"):
        check_labels(np.array([[0, 2]], dtype=np.uint8), ("a", "b"), where="train")
