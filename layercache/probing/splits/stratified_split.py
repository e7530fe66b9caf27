"""Stratified splits of the training rows: the validation part, few-shot draws, label fractions.

Every draw is a function of (labels, seed), takes rows of the training split only, and returns
ascending row numbers. Multi-label samples are stratified by their rarest positive class; samples
without any form a stratum of their own.

Shapes: N samples, C classes; labels are int64 (N,) or 0/1 (N, C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from layercache.errors import OptionError, ProbeError

Rows = np.ndarray[Any, np.dtype[np.int64]]
Labels = np.ndarray[Any, Any]

VALIDATION_FRACTION = 0.2
"""Fraction of the training rows that selects the configuration (arXiv 2601.09322, appendix on
hyperparameters)."""

MIN_SHOTS_OF_ONE_FOLD = 5
"""Shots from which one part is held out, as without a limit, instead of several folds."""


@dataclass(frozen=True)
class Fold:
    """One way to hold rows out of the training rows."""

    train: Rows
    """Rows to train on."""
    val: Rows
    """Rows that score the configurations; no row of `train`."""


def check_labels(labels: Labels, classes: tuple[str, ...], *, where: str) -> Rows:
    """Return the number of samples of each class, (C,).

    Args:
        labels: (N,) or (N, C).
        classes: Names of the C classes.
        where: Cache and split, for errors.

    Raises:
        ProbeError: Labels are not numbers of `classes`, or fewer than two classes occur.
    """
    n_classes = len(classes)
    if labels.ndim == 2:
        if labels.shape[1] != n_classes or not np.isin(labels, (0, 1)).all():
            raise ProbeError(
                f"{where}: expected multi-label targets of 0 and 1, one column for each of "
                f"{n_classes} classes, got {labels.shape} {labels.dtype}"
            )
        counts: Rows = labels.sum(axis=0, dtype=np.int64)
        if not ((counts > 0) & (counts < len(labels))).any():
            raise ProbeError(
                f"{where}: no class is present in some samples and absent in others; there is "
                "nothing to learn"
            )
        return counts
    if len(labels) and (labels.min() < 0 or labels.max() >= n_classes):
        invalid = labels[(labels < 0) | (labels >= n_classes)]
        raise ProbeError(
            f"{where}: expected labels 0 to {n_classes - 1} ({n_classes} classes), got "
            f"{len(invalid)} samples with others, such as {int(invalid[0])}: extract the dataset "
            "again with the right class names"
        )
    counts = np.bincount(labels, minlength=n_classes).astype(np.int64)
    present = np.flatnonzero(counts)
    if len(present) < 2:
        reason = "there are no samples"
        if len(present):
            reason = f"only class {classes[present[0]]!r} occurs"
        raise ProbeError(f"{where}: a probe needs at least two classes with samples, but {reason}")
    return counts


def strata(labels: Labels) -> Rows:
    """Return the stratum of each sample, (N,).

    It is the label, or the rarest positive class of (N, C) labels, or C without any.

    Args:
        labels: (N,) or (N, C).
    """
    if labels.ndim == 1:
        single: Rows = labels.astype(np.int64)
        return single
    frequency = labels.sum(axis=0, dtype=np.int64)
    rarity = np.where(labels > 0, frequency[None, :], np.iinfo(np.int64).max)
    rarest: Rows = np.where(labels.any(axis=1), rarity.argmin(axis=1), labels.shape[1]).astype(
        np.int64
    )
    return rarest


def _group_by_stratum(stratum: Rows) -> list[Rows]:
    """Return the ascending positions of each stratum, strata ascending.

    One sort, rather than a comparison of all samples with each of up to 21,841 classes.
    """
    order: Rows = np.argsort(stratum, kind="stable")
    if not len(stratum):
        return []
    return np.split(order, np.flatnonzero(np.diff(stratum[order])) + 1)


def stratified(
    labels: Labels, rows: Rows, *, fraction: float, seed: int, min_rest: int = 1
) -> tuple[Rows, Rows]:
    """Split rows into (rest, drawn), with every class in proportion.

    `drawn` has round(fraction * len(rows)) rows. The quota of a class is rounded down, and the rows
    still missing go to the largest remainders (equal ones in an order drawn by the seed). Each
    class leaves at least `min_rest` rows in the rest; `drawn` may be smaller for it.

    Args:
        labels: Labels of the whole split.
        rows: Ascending rows to split.
        fraction: Fraction of the rows to draw.
        seed: Seed of the draw.
        min_rest: Rows of each class that stay in the rest.
    """
    rng = np.random.default_rng([seed, 0x5B117])
    groups = _group_by_stratum(strata(labels[rows]))
    counts = np.array([len(group) for group in groups], np.int64)
    share = fraction * counts
    quota = np.floor(share + 1e-9).astype(np.int64)
    max_quota = np.maximum(counts - min_rest, 0)
    quota = np.minimum(quota, max_quota)
    n_missing = round(fraction * len(rows)) - int(quota.sum())
    for k in np.lexsort((rng.random(len(groups)), -(share - quota))):
        if n_missing <= 0:
            break
        if quota[k] < max_quota[k] and share[k] > quota[k]:
            quota[k] += 1
            n_missing -= 1
    parts = [rng.permutation(rows[group])[:n] for group, n in zip(groups, quota, strict=True)]
    drawn = np.sort(np.concatenate(parts)) if parts else rows[:0]
    # setdiff1d would sort or hash all rows
    return rows[~np.isin(rows, drawn, assume_unique=True)], drawn


def subset(labels: Labels, *, shots: int | None, fraction: float | None, seed: int) -> Rows:
    """Return the training rows of a probe, all of them if neither shots nor fraction is given.

    Args:
        labels: Labels of the split; a multi-label sample counts as a shot of its stratum.
        shots: Rows of each class (or all that it has).
        fraction: Stratified fraction of the rows, with at least one of each class.
        seed: Seed of the draw.

    Raises:
        OptionError: Both are given, or one is out of range.
    """
    rows = np.arange(len(labels), dtype=np.int64)
    if shots is not None and fraction is not None:
        raise OptionError("expected shots or train_fraction, got both")
    if shots is not None:
        if shots < 1:
            raise OptionError(f"shots: expected at least 1 sample of each class, got {shots}")
        rng = np.random.default_rng([seed, 0x5407])
        groups = _group_by_stratum(strata(labels))
        return np.sort(np.concatenate([rng.permutation(group)[:shots] for group in groups]))
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise OptionError(
                f"train_fraction: expected a number above 0 and at most 1, got {fraction}"
            )
        if fraction < 1:
            return stratified(labels, rows, fraction=1 - fraction, seed=seed)[0]
    return rows


def is_whole_split(labels: Labels, *, shots: int | None, fraction: float | None) -> bool:
    """Return whether a subset is no other than all rows, scored on the same folds.

    Arguments as in `subset`.

    Raises:
        OptionError: Both are given, or one is out of range.
    """
    if shots is not None and shots < MIN_SHOTS_OF_ONE_FOLD:
        return False
    return len(subset(labels, shots=shots, fraction=fraction, seed=0)) == len(labels)


def folds(labels: Labels, rows: Rows, *, shots: int | None, seed: int) -> list[Fold]:
    """Return the folds that score the configurations, without the test split.

    With 5 shots or more, or without a limit: one fold with a stratified 20 % held out. With 2 to 4
    shots: as many folds as shots, each holding out one shot of each class; the score is the mean.
    With 1 shot: none, because nothing can be held out (the search then takes the middle of the
    grid).

    Args:
        labels: Labels of the whole split.
        rows: Ascending training rows.
        shots: Training rows of each class, or None without a limit.
        seed: Seed of the draw.

    Raises:
        ProbeError: There are too few rows to hold any out.
    """
    if shots is None or shots >= MIN_SHOTS_OF_ONE_FOLD:
        train, val = stratified(labels, rows, fraction=VALIDATION_FRACTION, seed=seed)
        if not len(val):
            raise ProbeError(
                f"{len(rows)} training samples in {len(np.unique(strata(labels[rows])))} classes "
                "leave none for validation: every class keeps one sample for training. Use more "
                "samples, or shots for a few-shot probe"
            )
        return [Fold(train, val)]
    if shots == 1:
        return []
    rng = np.random.default_rng([seed, 0xF01D])
    fold_of_row = np.empty(len(rows), dtype=np.int64)
    for group in _group_by_stratum(strata(labels[rows])):
        # the only sample of a class is never held out (fold -1), so that every fold trains on it
        fold_of_row[group] = rng.permutation(len(group)) if len(group) > 1 else -1
    return [
        Fold(rows[fold_of_row != i], rows[fold_of_row == i])
        for i in range(shots)
        if (fold_of_row == i).any()
    ]
