"""The training samples of one probe and its folds, drawn once and handed to the workers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layercache.cache.reading.split import Split
from layercache.probing.heads.spec import REGRESSION
from layercache.probing.spec import ProbeSpec
from layercache.probing.splits.search_folds import describe_source, search_folds
from layercache.probing.splits.stratified_split import Fold, Rows, check_labels, subset
from layercache.probing.targets.target import Target, check_floats, stratify

logger = logging.getLogger(__name__)

LEFT_OUT, ALWAYS_TRAIN = -2, -1
MAX_LISTED_CLASSES = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainSubset:
    """Training samples and folds of one probe.

    It takes one byte per row of the splits and repeat, so that it can travel with every task.
    """

    roles: NDArray[np.int8]
    """Fold that holds a row out, or ALWAYS_TRAIN, or LEFT_OUT, for each repeat, (R, rows of the
    splits)."""
    folds_per_repeat: tuple[int, ...]
    """Number of folds of each repeat, R; 0 if nothing can be held out (1 shot)."""
    empty_classes: tuple[str, ...]
    """Classes without a training sample."""
    refit_stop: int
    """Row of the splits before which rows train the selected configuration."""

    @property
    def n_folds(self) -> int:
        """Number of folds of all repeats."""
        return sum(self.folds_per_repeat)

    @property
    def rows(self) -> Rows:
        """Rows of the splits, ascending."""
        return np.flatnonzero(self.roles[0] != LEFT_OUT)

    @property
    def refit_rows(self) -> Rows:
        """Rows that train the selected configuration, as positions within `rows`."""
        return np.flatnonzero(self.rows < self.refit_stop)

    @property
    def n_val_rows(self) -> int:
        """Number of samples that score a configuration, each counted once."""
        return int((self.roles >= 0).any(axis=0).sum())

    def fold(self, number: int) -> Fold:
        """Return one fold of all repeats, as positions within `rows`."""
        repeat = 0
        while number >= self.folds_per_repeat[repeat]:
            number -= self.folds_per_repeat[repeat]
            repeat += 1
        roles = self.roles[repeat][self.rows]
        return Fold(np.flatnonzero(roles != number), np.flatnonzero(roles == number))


def sample_subset(spec: ProbeSpec, split: Split, val_split: Split | None = None) -> TrainSubset:
    """Draw the training samples and folds of a probe, a function of the targets and the seed alone.

    Samples without a target are left out.

    Args:
        spec: The probe.
        split: Its training split.
        val_split: Its validation split, if that is a split of its own.

    Raises:
        ProbeError: The targets allow no probe.
    """
    target = spec.resolved_target
    labelled, values = _read_targets(target, split)
    where = describe_source(spec, split)
    _check(target, values, where=where)
    strata = stratify(values, task=target.task)
    drawn = subset(strata, shots=spec.shots, fraction=spec.train_fraction, seed=spec.seed)
    rows, values = labelled[drawn], values[drawn]
    _check(target, values, where=where)
    if val_split is not None:
        val_rows, val_values = _read_targets(target, val_split)
        repeats = [[Fold(np.arange(len(rows)), len(rows) + np.arange(len(val_rows)))]]
        rows = np.concatenate([rows, split.rows + val_rows])
        values, n_train = np.concatenate([values, val_values]), len(values)
    else:
        repeats = search_folds(spec, stratify(values, task=target.task), split=split, rows=rows)
        n_train = len(values)
    parts = [fold for folds in repeats for fold in folds]
    empty: tuple[str, ...] = ()
    if target.task == REGRESSION:
        if parts:
            check_floats(values[parts[0].val], where=f"{where}, validation part")
    else:
        empty = _log_classes(values[:n_train], classes=target.classes, where=where)
        _log_held_out(values, parts, classes=target.classes, where=where)
    n_rows = split.rows + (val_split.rows if val_split is not None else 0)
    roles = np.full((len(repeats), n_rows), LEFT_OUT, dtype=np.int8)
    roles[:, rows] = ALWAYS_TRAIN
    for repeat, folds in enumerate(repeats):
        for number, fold in enumerate(folds):
            roles[repeat, rows[fold.val]] = number
    return TrainSubset(
        roles=roles,
        folds_per_repeat=tuple(map(len, repeats)),
        empty_classes=empty,
        refit_stop=n_rows if spec.validation.refit == "train+val" else split.rows,
    )


def _read_targets(target: Target, split: Split) -> tuple[Rows, NDArray[Any]]:
    """Return the rows of a split that have a target, and the targets of these."""
    rows = target.rows(split)
    return rows, target.values(split)[rows]


def _check(target: Target, values: NDArray[Any], *, where: str) -> None:
    if target.task == REGRESSION:
        check_floats(values, where=where)
    else:
        check_labels(values, target.classes, where=where)


def _log_classes(labels: NDArray[Any], *, classes: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Return the classes without a training sample, and log them."""
    counts = check_labels(labels, classes, where=where)
    empty = tuple(classes[c] for c in np.flatnonzero(counts == 0))
    if empty:
        more = len(empty) - MAX_LISTED_CLASSES
        listed = ", ".join(empty[:MAX_LISTED_CLASSES]) + (f" and {more} more" if more > 0 else "")
        logger.info(
            "%d of %d classes have no training sample and get weight 0: %s",
            len(empty),
            len(classes),
            listed,
        )
    return empty


def _log_held_out(
    labels: NDArray[Any], parts: Sequence[Fold], *, classes: tuple[str, ...], where: str
) -> None:
    """Log how many classes are not scored, and how many a fold is scored on but not trained on."""
    if not parts:
        return
    n_classes = len(classes)
    trained, scored = (
        np.array([_count(labels[rows], n_classes) for rows in sides]) > 0
        for sides in ([fold.train for fold in parts], [fold.val for fold in parts])
    )
    present = trained.any(axis=0) | scored.any(axis=0)
    if lacking := int((present & ~scored.any(axis=0)).sum()):
        logger.info(
            "%d of %d classes have too few samples for the validation part; the others are scored",
            lacking,
            n_classes,
        )
    untrained = (scored & ~trained).any(axis=1)
    if untrained.any():
        logger.warning(
            "in %d of %d folds a class is scored of which no sample is trained on: its samples are "
            "all in one fold or group",
            int(untrained.sum()),
            len(parts),
        )


def _count(labels: NDArray[Any], n_classes: int) -> NDArray[np.int64]:
    """Return the number of samples of each class, (C,)."""
    if labels.ndim == 2:
        return np.asarray(labels.sum(axis=0, dtype=np.int64))
    return np.bincount(labels, minlength=n_classes)
