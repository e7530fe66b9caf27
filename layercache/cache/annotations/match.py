"""Rows of a table matched to the samples of a cache, by split and id.

Shapes: N samples of a split, skipped ones included.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layercache._units import pluralize
from layercache.cache.annotations.column import Array
from layercache.cache.annotations.frame import SPLIT
from layercache.cache.annotations.table import MAX_LISTED, AnnotationTable
from layercache.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """Assignment of a table's rows to samples."""

    rows: Mapping[str, Array]
    """Split -> row of the table for each of its N samples, int64 (N,); -1 for none."""
    unmatched: Sequence[str]
    """Ids of the rows that belong to no sample."""


def match_rows(table: AnnotationTable, ids: Mapping[str, Sequence[str]]) -> Matches:
    """Return the rows of a table by sample.

    A table with a column "split" that holds only names of these splits is matched by split and id;
    otherwise by id, which must then be in one split only.

    Args:
        table: The table.
        ids: Split -> ids of all its samples.

    Raises:
        DataError: Two rows are of one sample, or an id without a split is in several splits.
    """
    import pandas as pd

    samples = {split: pd.Index(np.array(names, object)) for split, names in ids.items()}
    if table.splits is not None and set(np.unique(table.splits)) <= set(samples):
        return _by_split(table, table.splits, samples)
    if table.splits is not None:
        others = sorted(set(np.unique(table.splits)) - set(samples))
        logger.info(
            '%s: the column "split" has names that are no split of the cache (%s), so rows are '
            "matched by their id alone; to keep the column as an annotation, rename it",
            table.name,
            ", ".join(others[:MAX_LISTED]),
        )
    _check_unique(table, table.ids, np.arange(len(table.ids)))
    found = np.zeros(len(table.ids), np.int64)
    rows = {}
    for split, names in samples.items():
        rows[split] = table.ids.get_indexer(names).astype(np.int64)
        found[rows[split][rows[split] >= 0]] += 1
    if (found > 1).any():
        repeated = table.ids[np.flatnonzero(found > 1)[0]]
        raise DataError(
            f"{table.name}: the id {repeated!r} is in several splits of the cache "
            f'({pluralize(int((found > 1).sum()), "such id")}): add a column "{SPLIT}" with the '
            f"name of the split ({', '.join(samples)})"
        )
    return Matches(rows=rows, unmatched=list(table.ids[found == 0]))


def _by_split(
    table: AnnotationTable, splits: Array, samples: Mapping[str, pd.Index[Any]]
) -> Matches:
    rows, unmatched = {}, np.ones(len(table.ids), bool)
    for split, names in samples.items():
        of_split = np.flatnonzero(splits == split)
        part = table.ids[of_split]
        _check_unique(table, part, of_split)
        position = part.get_indexer(names)
        found = position >= 0
        rows[split] = np.full(len(names), -1, np.int64)
        rows[split][found] = of_split[position[found]]
        unmatched[rows[split][found]] = False
    return Matches(rows=rows, unmatched=list(table.ids[unmatched]))


def _check_unique(table: AnnotationTable, ids: pd.Index[Any], rows: Array) -> None:
    if ids.is_unique:
        return
    repeated = np.flatnonzero(ids.duplicated())
    first = int(repeated[0])
    earlier = int(np.flatnonzero(ids == ids[first])[0])
    raise DataError(
        f"{table.name}: expected one row for each id, got {ids[first]!r} in the rows "
        f"{rows[earlier] + 1} and {rows[first] + 1} ({pluralize(len(repeated), 'repeated row')}): "
        "keep one"
    )
