"""Which training rows a probe sees: the stratified validation part, few-shot draws, label fractions.

Every draw is a function of (labels, seed), takes rows of the training split only, and returns ascending row numbers.
Multi-label samples are stratified by their rarest positive class; samples without any form a class of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from layercache.errors import OptionError, ProbeError

Rows = np.ndarray[Any, np.dtype[np.int64]]
Labels = np.ndarray[Any, Any]

VALIDATION = 0.2
"""Part of the training rows that selects the setting (arXiv 2601.09322, appendix on hyperparameters)."""


@dataclass(frozen=True)
class Fold:
    """One way to hold rows out of the training rows."""

    train: Rows
    """Rows to fit on."""
    val: Rows
    """Rows that score the settings; no row of `train`."""


def check_labels(labels: Labels, classes: tuple[str, ...], *, where: str) -> Rows:
    """The number of samples of each class, (C,).

    Raises ProbeError where labels are not numbers of `classes`, and where fewer than two classes occur.
    """
    c = len(classes)
    if labels.ndim == 2:
        if labels.shape[1] != c or not np.isin(labels, (0, 1)).all():
            raise ProbeError(
                f"{where}: expected multi-label targets of 0 and 1, one column for each of {c} classes; came {labels.shape} {labels.dtype}"
            )
        counts: Rows = labels.sum(axis=0, dtype=np.int64)
        if not ((counts > 0) & (counts < len(labels))).any():
            raise ProbeError(
                f"{where}: no class is present in some samples and absent in others; there is nothing to learn"
            )
        return counts
    if len(labels) and (labels.min() < 0 or labels.max() >= c):
        wrong = labels[(labels < 0) | (labels >= c)]
        raise ProbeError(
            f"{where}: expected labels 0 to {c - 1} ({c} classes); {len(wrong)} samples have others, such as {int(wrong[0])}: "
            "extract the data set again with the right class names"
        )
    counts = np.bincount(labels, minlength=c).astype(np.int64)
    present = np.flatnonzero(counts)
    if len(present) < 2:
        named = (
            f"only class {classes[present[0]]!r} occurs" if len(present) else "there are no samples"
        )
        raise ProbeError(f"{where}: a probe needs at least two classes with samples, but {named}")
    return counts


def strata(labels: Labels) -> Rows:
    """(N,) stratum of each sample: its label, or for (N, C) 0/1 labels its rarest positive class, or C where it has none."""
    if labels.ndim == 1:
        single: Rows = labels.astype(np.int64)
        return single
    frequency = labels.sum(axis=0, dtype=np.int64)
    rarity = np.where(labels > 0, frequency[None, :], np.iinfo(np.int64).max)
    rarest: Rows = np.where(labels.any(axis=1), rarity.argmin(axis=1), labels.shape[1]).astype(
        np.int64
    )
    return rarest


def _members(kinds: Rows) -> list[Rows]:
    """The samples of each stratum, ascending, strata ascending. One sort, not a comparison of all samples with each of 21,841 classes."""
    order: Rows = np.argsort(kinds, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(kinds[order])) + 1) if len(kinds) else []


def stratified(
    labels: Labels, rows: Rows, *, part: float, seed: int, keep: int = 1
) -> tuple[Rows, Rows]:
    """Splits `rows`, ascending, into (rest, drawn), `drawn` holding round(part * len(rows)) of them with every class in proportion.

    A class's share is rounded down, and what is then missing goes to the largest remainders (equal ones in an order drawn by the seed).
    Each class leaves at least `keep` rows in the rest, so a class with one sample stays there; `drawn` may end up smaller for it.
    """
    rng = np.random.default_rng([seed, 0x5B117])
    kinds = strata(labels[rows])
    members = _members(kinds)
    counts = np.array([len(m) for m in members], np.int64)
    share = part * counts
    quota = np.floor(share + 1e-9).astype(np.int64)
    most = np.maximum(counts - keep, 0)
    quota = np.minimum(quota, most)
    missing = round(part * len(rows)) - int(quota.sum())
    for k in np.lexsort((rng.random(len(members)), -(share - quota))):
        if missing <= 0:
            break
        if quota[k] < most[k] and share[k] > quota[k]:
            quota[k] += 1
            missing -= 1
    drawn = [rng.permutation(rows[m])[:n] for m, n in zip(members, quota, strict=True)]
    chosen = np.sort(np.concatenate(drawn)) if drawn else rows[:0]
    return rows[
        ~np.isin(rows, chosen, assume_unique=True)
    ], chosen  # setdiff1d would sort or hash them all


def subset(labels: Labels, *, shots: int | None, fraction: float | None, seed: int) -> Rows:
    """The training rows of a probe: all; `shots` of each class (or all it has); or a stratified `fraction`, at least one of each class.

    A multi-label sample counts as a shot of its stratum (see the top of this file).
    """
    rows = np.arange(len(labels), dtype=np.int64)
    if shots is not None and fraction is not None:
        raise OptionError("give shots or a fraction of the training samples, not both")
    if shots is not None:
        if shots < 1:
            raise OptionError(
                f"shots is a number of samples of each class, at least 1; came {shots}"
            )
        rng = np.random.default_rng([seed, 0x5407])
        return np.sort(
            np.concatenate([rng.permutation(m)[:shots] for m in _members(strata(labels))])
        )
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise OptionError(
                f"fraction is a part of the training samples, above 0 and at most 1; came {fraction}"
            )
        return rows if fraction == 1 else stratified(labels, rows, part=1 - fraction, seed=seed)[0]
    return rows


def folds(labels: Labels, rows: Rows, *, shots: int | None, seed: int) -> list[Fold]:
    """How the settings are scored, without a look at the test split.

    Normally and from 5 shots on: one fold with a stratified 20 % held out. 2 to 4 shots: as many folds as shots, each holding out
    one shot of each class; a setting's score is the mean. 1 shot: no fold, since nothing can be held out
    (the sweep then takes the middle of the grid).
    """
    if shots is None or shots >= 5:
        train, val = stratified(labels, rows, part=VALIDATION, seed=seed)
        if not len(val):
            raise ProbeError(
                f"{len(rows)} training samples in {len(np.unique(strata(labels[rows])))} classes leave none for validation: "
                "every class keeps one sample for training. Use more samples, or --shots for a few-shot probe"
            )
        return [Fold(train, val)]
    if shots == 1:
        return []
    rng = np.random.default_rng([seed, 0xF01D])
    kinds = strata(labels[rows])
    turn = np.empty(len(rows), dtype=np.int64)
    for members in _members(kinds):
        # a class with a single sample has turn -1: it is never held out, so that every fold trains on it
        turn[members] = rng.permutation(len(members)) if len(members) > 1 else -1
    return [Fold(rows[turn != j], rows[turn == j]) for j in range(shots) if (turn == j).any()]
