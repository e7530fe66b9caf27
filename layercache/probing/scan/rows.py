"""Parts of the training rows of a scan: to fit, to select by, and for nearest neighbors.

Shapes: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layercache.errors import ProbeError
from layercache.probing.splits.folds import draw_folds
from layercache.probing.splits.stratified_split import VALIDATION_FRACTION, Labels, Rows, stratified

MAX_VALIDATION = 10_000
"""Validation rows, which stay in memory; more would hardly change what is selected."""
MAX_REFERENCES = 4000
"""Training rows that queries are compared with."""
MAX_QUERIES = 2000
"""Validation rows that the setting of knn is selected by."""


@dataclass(frozen=True, eq=False)
class ScanRows:
    """Row numbers of the dataset, ascending: the training split, then a validation split if any."""

    train: Rows
    """Rows that the settings are fitted on before one is selected."""
    val: Rows
    """Rows that it is selected by."""
    refit: Rows
    """Rows of the final fit: the training samples."""
    references: Rows
    """Rows of `refit` that queries are compared with."""
    queries: Rows
    """Positions of the validation rows that the setting of knn is selected by."""

    @property
    def val_is_refitted(self) -> bool:
        """True if the validation rows are training samples, and not a split of their own."""
        return len(self.refit) > len(self.train)

    @property
    def used(self) -> Rows:
        """Rows of the final fit and for validation."""
        return np.union1d(self.refit, self.val)


def split_rows(
    strata: Labels, *, seed: int, train_rows: int | None = None, groups: Rows | None = None
) -> ScanRows:
    """Return the parts, drawn stratified.

    Args:
        strata: Labels by which rows are stratified, (N,) or (N, C).
        seed: Seed of the draws.
        train_rows: Number of rows of the training split, if the others are a validation split;
            None: a part of the training samples selects.
        groups: Number of each row's group, (N,), which stays in one part; None: no groups.

    Raises:
        ProbeError: There are too few rows to hold any out.
    """
    rows = np.arange(len(strata))
    if train_rows is not None:
        refit = train = rows[:train_rows]
        val = _draw(strata, rows[train_rows:], MAX_VALIDATION, seed=seed)
    elif groups is not None:
        refit = rows
        (fold,), *_ = draw_folds(strata, seed=seed, groups=groups)
        train, val = fold.train, fold.val
    else:
        refit = rows
        fraction = min(VALIDATION_FRACTION, MAX_VALIDATION / max(len(rows), 1))
        train, val = stratified(strata, rows, fraction=fraction, seed=seed)
    if not len(val):
        raise ProbeError(
            f"{len(refit)} training samples leave none for validation, as every class keeps one "
            "for training: a scan needs more samples per class"
        )
    return ScanRows(
        train=train,
        val=val,
        refit=refit,
        references=_draw(strata, refit, MAX_REFERENCES, seed=seed + 1),
        queries=np.searchsorted(val, _draw(strata, val, MAX_QUERIES, seed=seed + 2)),
    )


def _draw(strata: Labels, rows: Rows, count: int, *, seed: int) -> Rows:
    if len(rows) <= count:
        return rows
    return stratified(strata, rows, fraction=count / len(rows), seed=seed, min_rest=0)[1]
