"""Folds that score the configurations, where they are not the paper's single part of 20 %.

Groups, K folds and repeats are drawn by scikit-learn; every draw is a function of the labels, the
groups and the seed.

Shapes: N samples, C classes; labels are int64 (N,) or 0/1 (N, C).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from layercache.errors import ProbeError
from layercache.probing.splits.stratified_split import (
    MIN_SHOTS_OF_ONE_FOLD,
    VALIDATION_FRACTION,
    Fold,
    Labels,
    Rows,
    folds,
    strata,
)
from layercache.probing.splits.validation_options import MAX_FOLDS

if TYPE_CHECKING:
    import pandas as pd

NEVER = -1
"""Number of the fold of a sample that is never held out."""


def draw_folds(
    labels: Labels,
    *,
    seed: int,
    shots: int | None = None,
    n_folds: int | None = None,
    repeats: int = 1,
    groups: Rows | None = None,
) -> list[list[Fold]]:
    """Return the folds of each repeat, as positions within the training samples.

    Without `n_folds` a repeat is `splits.folds`: one stratified part of 20 %, or few-shot folds. A
    group is in one part only.

    Args:
        labels: Labels of the training samples.
        seed: Seed of the draw; the first repeat without groups and `n_folds` is `splits.folds`.
        shots: Training samples per class, or None without a limit.
        n_folds: Number of folds.
        repeats: Number of draws.
        groups: Number of each sample's group, (N,).

    Raises:
        ProbeError: There are too few samples or groups.
    """
    return [
        _draw(labels, _repeat_seed(seed, repeat), shots=shots, n_folds=n_folds, groups=groups)
        for repeat in range(repeats)
    ]


def given_folds(numbers: Rows) -> list[Fold]:
    """Return a fold for each number that occurs; samples of number NEVER are in no validation part.

    Args:
        numbers: Fold of each sample, (N,).

    Raises:
        ProbeError: No sample is held out, or one fold holds all samples.
    """
    present = np.unique(numbers[numbers != NEVER])
    if not len(present):
        raise ProbeError(
            "fold_column: no training sample has a fold: annotate them with numbers or names of "
            "folds, or choose folds (--folds K)"
        )
    if len(present) > MAX_FOLDS:
        raise ProbeError(
            f"fold_column: expected at most {MAX_FOLDS} folds, got {len(present)}: choose a column "
            "with fewer values; for a column of groups, choose group (--group)"
        )
    if len(present) == 1 and not (numbers == NEVER).any():
        raise ProbeError(
            "fold_column: all training samples are in one fold, which leaves none to train on: "
            "give at least two folds, or leave the value of some samples empty"
        )
    return [Fold(np.flatnonzero(numbers != k), np.flatnonzero(numbers == k)) for k in present]


def fold_numbers(column: pd.Series[Any]) -> Rows:
    """Return the number of each sample's fold, (N,), in the order of the column's values.

    Missing values and -1 are NEVER.
    """
    import pandas as pd

    codes, _ = pd.factorize(column, sort=True)
    never = column.isna().to_numpy() | (column.astype(str) == "-1").to_numpy()
    numbers: Rows = np.where(never, NEVER, codes).astype(np.int64)
    return numbers


def group_numbers(column: pd.Series[Any]) -> tuple[Rows, int]:
    """Return the number of each sample's group, (N,), and how many samples have no value.

    A sample without a value is a group of its own.
    """
    import pandas as pd

    codes, values = pd.factorize(column)
    groups = codes.astype(np.int64)
    missing = np.flatnonzero(groups < 0)
    groups[missing] = len(values) + np.arange(len(missing))
    return groups, len(missing)


def _repeat_seed(seed: int, repeat: int) -> int:
    if repeat == 0:
        return seed
    return int(np.random.SeedSequence([seed, repeat, 0x4E9EA7]).generate_state(1)[0])


def _draw(
    labels: Labels, seed: int, *, shots: int | None, n_folds: int | None, groups: Rows | None
) -> list[Fold]:
    if n_folds is None and groups is None:
        return folds(labels, np.arange(len(labels)), shots=shots, seed=seed)
    if n_folds is not None:
        return list(_k_folds(labels, n_folds, seed=seed, groups=groups))
    assert groups is not None
    if shots == 1:
        return []
    few_shot = shots is not None and shots < MIN_SHOTS_OF_ONE_FOLD
    n_parts = min(
        (few_shot and shots) or round(1 / VALIDATION_FRACTION),
        len(np.unique(groups)),
        int(np.bincount(strata(labels)).max()),
    )
    parts = list(_k_folds(labels, max(n_parts, 2), seed=seed, groups=groups))
    if few_shot:
        return parts
    return [min(parts, key=lambda fold: _distance(fold, labels))]


def _k_folds(labels: Labels, n_folds: int, *, seed: int, groups: Rows | None) -> Iterator[Fold]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    n_groups = len(labels) if groups is None else len(np.unique(groups))
    if n_groups < n_folds:
        raise ProbeError(
            f"{len(labels)} training samples in {n_groups} groups cannot be divided into "
            f"{n_folds} folds: a group stays in one of them. Use fewer folds or more groups"
        )
    state = int(np.random.SeedSequence([seed, 0xF01D]).generate_state(1)[0])
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(
        n_folds, shuffle=True, random_state=state
    )
    stratum = strata(labels)
    with warnings.catch_warnings():
        # small classes, which the caller counts
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        try:
            parts = list(splitter.split(stratum, stratum, groups))
        except ValueError:
            largest = int(np.bincount(stratum).max())
            raise ProbeError(
                f"{n_folds} folds need a class of at least {n_folds} training samples, and the "
                f"largest has {largest}: use fewer folds"
            ) from None
    for train, val in parts:
        if len(val):
            yield Fold(np.asarray(train, np.int64), np.asarray(val, np.int64))


def _distance(fold: Fold, labels: Labels) -> tuple[int, float]:
    """Return how far a part is from a fifth of the samples that leaves every class to train on."""
    stratum = strata(labels)
    lacking = len(np.setdiff1d(stratum[fold.val], stratum[fold.train]))
    return lacking, abs(len(fold.val) / len(stratum) - VALIDATION_FRACTION)
