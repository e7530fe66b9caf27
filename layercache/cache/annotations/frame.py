"""Annotation columns as a pandas DataFrame.

Shapes: N rows of all splits together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layercache.cache.annotations.column import (
    AnnotationColumn,
    Array,
    is_missing,
    missing_values,
)

if TYPE_CHECKING:
    import pandas as pd

SPLIT = "split"
"""Name of the column with the split of each sample."""


def annotation_frame(
    columns: Mapping[str, AnnotationColumn],
    *,
    ids: Mapping[str, Sequence[str]],
    kept: Mapping[str, Array],
) -> pd.DataFrame:
    """Return a table of the samples of several splits, split by split.

    Args:
        columns: Annotations by name.
        ids: Split -> ids of its rows, without the skipped ones.
        kept: Split -> positions of these rows among all samples, int64.

    Returns:
        A table with the index "id", the column "split", and one column per annotation: a
        Categorical with all class names in order, Int64, float64, or, multi-label, tuples of class
        names. Missing values are NaN, <NA> and None.
    """
    import pandas as pd

    split_numbers = np.repeat(np.arange(len(ids)), [len(names) for names in ids.values()])
    splits = _categorical(split_numbers, list(ids))
    index = pd.Index([name for names in ids.values() for name in names], dtype=object, name="id")
    frame = pd.DataFrame({SPLIT: splits}, index=index)
    for name, column in columns.items():
        parts = [rows_of(column, split, kept[split]) for split in ids]
        frame[name] = _series(column, np.concatenate(parts) if parts else missing_rows(column, 0))
    return frame


def missing_rows(column: AnnotationColumn, rows: int) -> Array:
    """Return missing values of a column for `rows` samples, (rows,) or (rows, C)."""
    shape = (rows, len(column.classes)) if column.kind == "multi-label" else (rows,)
    return missing_values(column.kind, shape)


def rows_of(column: AnnotationColumn, split: str, kept: Array) -> Array:
    """Return the values of some samples of a split; missing where the column has no such split."""
    if split not in column.values:
        return missing_rows(column, len(kept))
    return column.values[split][kept]


def _series(column: AnnotationColumn, values: Array) -> Any:
    import pandas as pd

    if column.kind == "class":
        return _categorical(values, list(column.classes))
    if column.kind == "integer":
        return pd.arrays.IntegerArray(values.copy(), is_missing(values, "integer"))
    if column.kind == "float":
        return values.copy()
    names = np.array(column.classes, object)
    missing = is_missing(values, "multi-label")
    tuples = np.empty(len(values), object)
    for row, flags in enumerate(values):
        tuples[row] = None if missing[row] else tuple(names[flags == 1])
    return tuples


def _categorical(codes: Any, names: Any) -> Any:
    import pandas as pd

    return pd.Categorical.from_codes(codes, categories=pd.Index(names, dtype=object))
