"""The training samples of one probe and its folds, drawn once and handed to the workers."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layercache.cache.reading.split import Split
from layercache.probing.data.splits import Fold, Rows, check_labels, folds, subset
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
    """Draw the training samples and folds of a probe, a function of the labels and the seed alone.

    Raises:
        ProbeError: The labels allow no probe.
    """
    classes = spec.tokens.cache.spec.dataset.classes
    where = f"{spec.tokens.cache.path}, split {split.name!r}"
    check_labels(split.labels, classes, where=where)
    rows = subset(split.labels, shots=spec.shots, fraction=spec.train_fraction, seed=spec.seed)
    labels = split.labels[rows]
    counts = check_labels(labels, classes, where=where)
    parts = folds(labels, np.arange(len(rows)), shots=spec.shots, seed=spec.seed)
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
    roles = np.full(len(split.labels), LEFT_OUT, dtype=np.int8)
    roles[rows] = ALWAYS_TRAIN
    for number, fold in enumerate(parts):
        roles[rows[fold.val]] = number
    return TrainSubset(roles=roles, n_folds=len(parts), empty_classes=empty)
