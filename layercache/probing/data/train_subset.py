"""The training samples of one probe and its folds, drawn once and handed to the workers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layercache.cache.reading.split import Split
from layercache.probing.data.splits import Fold, Rows, check_labels, folds, subset
from layercache.probing.data.target import Target, check_floats, stratify
from layercache.probing.heads.spec import REGRESSION
from layercache.probing.spec import ProbeSpec

logger = logging.getLogger(__name__)

LEFT_OUT, ALWAYS_TRAIN = -2, -1
MAX_LISTED_CLASSES = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainSubset:
    """Training samples and folds of one probe.

    It takes one byte per row of the split, so that it can travel with every task.
    """

    roles: NDArray[np.int8]
    """Fold that holds a row out, or ALWAYS_TRAIN, or LEFT_OUT, (rows of the split,)."""
    n_folds: int
    """Number of folds; 0 if nothing can be held out (1 shot)."""
    empty_classes: tuple[str, ...]
    """Classes without a training sample."""

    @property
    def rows(self) -> Rows:
        """Rows of the split, ascending."""
        return np.flatnonzero(self.roles != LEFT_OUT)

    def fold(self, number: int) -> Fold:
        """Return one fold, as positions within `rows`."""
        roles = self.roles[self.rows]
        return Fold(np.flatnonzero(roles != number), np.flatnonzero(roles == number))


def sample_subset(spec: ProbeSpec, split: Split) -> TrainSubset:
    """Draw the training samples and folds of a probe, a function of the targets and the seed alone.

    Samples without a target are left out.

    Raises:
        ProbeError: The targets allow no probe.
    """
    target = spec.resolved_target
    where = f"{spec.tokens.cache.path}, split {split.name!r}"
    if not target.is_label:
        where += f", {target.describe_columns()}"
    if missing := target.describe_missing(split):
        logger.info("%s", missing)
    labelled = target.rows(split)
    values = target.values(split)[labelled]
    _check(target, values, where=where)
    strata = stratify(values, task=target.task)
    drawn = subset(strata, shots=spec.shots, fraction=spec.train_fraction, seed=spec.seed)
    rows, values = labelled[drawn], values[drawn]
    strata = stratify(values, task=target.task)
    parts = folds(strata, np.arange(len(rows)), shots=spec.shots, seed=spec.seed)
    _check(target, values, where=where)
    empty: tuple[str, ...] = ()
    if target.task == REGRESSION:
        if parts:
            check_floats(values[parts[0].val], where=f"{where}, validation part")
    else:
        empty = _log_classes(values, parts, classes=target.classes, where=where)
    roles = np.full(split.rows, LEFT_OUT, dtype=np.int8)
    roles[rows] = ALWAYS_TRAIN
    for number, fold in enumerate(parts):
        roles[rows[fold.val]] = number
    return TrainSubset(roles=roles, n_folds=len(parts), empty_classes=empty)


def _check(target: Target, values: NDArray[Any], *, where: str) -> None:
    if target.task == REGRESSION:
        check_floats(values, where=where)
    else:
        check_labels(values, target.classes, where=where)


def _log_classes(
    labels: NDArray[Any], parts: Sequence[Fold], *, classes: tuple[str, ...], where: str
) -> tuple[str, ...]:
    """Return the classes without a training sample; log them, and those that are not scored."""
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
    if parts:
        held_out = labels[parts[0].val]
        scored = counts * 0
        if len(np.unique(held_out, axis=0)) > 1:
            scored = check_labels(held_out, classes, where=where)
        if lacking := int(((counts > 0) & (scored == 0)).sum()):
            logger.info(
                "%d of %d classes have too few samples for the validation part; "
                "the others are scored",
                lacking,
                len(classes),
            )
    return empty
