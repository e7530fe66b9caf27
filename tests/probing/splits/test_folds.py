from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.errors import ProbeError
from layercache.probing.splits.folds import (
    NEVER,
    draw_folds,
    fold_numbers,
    given_folds,
    group_numbers,
)
from layercache.probing.splits.stratified_split import folds

grouped_samples = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=12, max_size=80
).filter(lambda pairs: len({group for _, group in pairs}) >= 5)


@settings(max_examples=60, deadline=None)
@given(grouped_samples, st.integers(0, 4), st.sampled_from([None, 2, 3]), st.integers(1, 2))
def test_draw_folds_never_puts_a_group_on_two_sides(
    samples: list[tuple[int, int]], seed: int, n_folds: int | None, repeats: int
) -> None:
    labels, groups = (np.array(values, np.int64) for values in zip(*samples, strict=True))
    drawn = draw_folds(labels, seed=seed, n_folds=n_folds, repeats=repeats, groups=groups)
    assert len(drawn) == repeats
    for parts in drawn:
        for fold in parts:
            assert not set(groups[fold.train]) & set(groups[fold.val])
            assert sorted([*fold.train, *fold.val]) == list(range(len(labels)))
        if n_folds is not None:
            held_out = np.concatenate([fold.val for fold in parts])
            assert sorted(held_out) == list(range(len(labels))), "every row is held out once"
        else:
            assert len(parts) == 1


@given(st.integers(2, 6), st.integers(1, 3), st.integers(0, 3))
def test_draw_folds_of_k_hold_out_every_row_once_in_each_repeat(
    n_folds: int, repeats: int, seed: int
) -> None:
    labels = np.arange(60) % 3
    drawn = draw_folds(labels, seed=seed, n_folds=n_folds, repeats=repeats)
    assert [len(parts) for parts in drawn] == [n_folds] * repeats
    for parts in drawn:
        assert sorted(np.concatenate([fold.val for fold in parts])) == list(range(60))
        for fold in parts:
            assert np.ptp(np.bincount(labels[fold.val], minlength=3)) <= 1, "stratified"
    if repeats > 1:
        assert not np.array_equal(drawn[0][0].val, drawn[1][0].val)


@pytest.mark.parametrize("shots", [None, 1, 3, 5])
def test_draw_folds_without_options_are_those_of_the_paper(shots: int | None) -> None:
    labels = np.arange(60) % 4
    expected = folds(labels, np.arange(60), shots=shots, seed=3)
    for parts in draw_folds(labels, seed=3, shots=shots, repeats=2)[:1]:
        for fold, other in zip(parts, expected, strict=True):
            assert np.array_equal(fold.val, other.val)
            assert np.array_equal(fold.train, other.train)


def test_draw_folds_by_group_hold_out_about_a_fifth_and_keep_every_class_in_train() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 40, 1000)
    labels = (groups % 4 + rng.integers(0, 2, 1000)) % 4
    for seed in range(5):
        ((fold,),) = draw_folds(labels, seed=seed, groups=groups)
        assert 0.15 < len(fold.val) / 1000 < 0.25
        assert set(labels[fold.train]) == {0, 1, 2, 3}


def test_draw_folds_of_few_shots_by_group_has_as_many_folds_as_shots() -> None:
    labels, groups = np.repeat(np.arange(5), 3), np.tile(np.arange(3), 5)
    (parts,) = draw_folds(labels, seed=0, shots=3, groups=groups)
    assert [sorted(set(groups[fold.val])) for fold in parts] in [
        [[a], [b], [c]] for a in range(3) for b in range(3) for c in range(3)
    ]
    assert draw_folds(labels, seed=0, shots=1, groups=groups) == [[]]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"groups": np.zeros(20, np.int64)}, "20 training samples in 1 groups"),
        ({"groups": np.arange(20) % 3, "n_folds": 4}, "in 3 groups cannot be divided into 4"),
        ({"n_folds": 30}, "in 20 groups cannot|cannot be divided"),
        ({"n_folds": 15}, "15 folds need a class of at least 15 training samples, .* has 10"),
    ],
)
def test_draw_folds_with_too_few_samples_or_groups_raises(
    options: dict[str, object], text: str
) -> None:
    with pytest.raises(ProbeError, match=text):
        draw_folds(np.arange(20) % 2, seed=0, **options)  # type: ignore[arg-type]


def test_given_folds_hold_out_each_value_and_never_a_missing_one() -> None:
    numbers = fold_numbers(pd.Series(["b", "a", None, "b", "-1"]))
    assert numbers.tolist() == [1 + 1, 1, NEVER, 1 + 1, NEVER]
    first, second = given_folds(numbers)
    assert (first.val.tolist(), second.val.tolist()) == ([1], [0, 3])
    assert first.train.tolist() == [0, 2, 3, 4]
    assert fold_numbers(pd.Series([10.0, 9.0, np.nan, -1.0])).tolist()[:3] == [2, 1, NEVER]


@pytest.mark.parametrize(
    ("values", "text"),
    [([None, None], "no training sample has a fold"), (["a", "a"], "all training samples are in")],
)
def test_given_folds_that_allow_no_search_raise(values: list[str | None], text: str) -> None:
    with pytest.raises(ProbeError, match=text):
        given_folds(fold_numbers(pd.Series(values, dtype=object)))


def test_group_numbers_make_a_group_of_each_missing_value() -> None:
    groups, n_missing = group_numbers(pd.Series(["p1", None, "p2", "p1", None]))
    assert n_missing == 2
    assert groups[0] == groups[3]
    assert len(set(groups.tolist())) == 4
