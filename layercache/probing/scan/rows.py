"""Parts of the training rows of a scan: to fit, to select by, and for nearest neighbors.

Shapes: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layercache.errors import ProbeError
from layercache.probing.splits.draws import VALIDATION_FRACTION, Labels, Rows, stratified

MAX_VALIDATION = 10_000
"""Validation rows, which stay in memory; more would hardly change what is selected."""
MAX_REFERENCES = 4000
"""Training rows that queries are compared with."""
MAX_QUERIES = 2000
"""Validation rows that the setting of knn is selected by."""


@dataclass(frozen=True, eq=False)
class ScanRows:
    """Row numbers of the training dataset, ascending."""

    train: Rows
    """Rows that the settings are fitted on before one is selected."""
    val: Rows
    """Rows that it is selected by."""
    references: Rows
    """Rows of both that queries are compared with."""
    queries: Rows
    """Positions of the validation rows that the setting of knn is selected by."""


def split_rows(strata: Labels, *, seed: int) -> ScanRows:
    """Return the parts, drawn stratified.

    Args:
        strata: Labels by which rows are stratified, (N,) or (N, C).
        seed: Seed of the draws.

    Raises:
        ProbeError: There are too few rows to hold any out.
    """
    rows = np.arange(len(strata))
    fraction = min(VALIDATION_FRACTION, MAX_VALIDATION / max(len(rows), 1))
    train, val = stratified(strata, rows, fraction=fraction, seed=seed)
    if not len(val):
        raise ProbeError(
            f"{len(rows)} training samples leave none for validation, as every class keeps one for "
            "training: a scan needs more samples per class"
        )
    return ScanRows(
        train=train,
        val=val,
        references=_draw(strata, rows, MAX_REFERENCES, seed=seed + 1),
        queries=np.searchsorted(val, _draw(strata, val, MAX_QUERIES, seed=seed + 2)),
    )


def _draw(strata: Labels, rows: Rows, count: int, *, seed: int) -> Rows:
    if len(rows) <= count:
        return rows
    return stratified(strata, rows, fraction=count / len(rows), seed=seed, min_rest=0)[1]
