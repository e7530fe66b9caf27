"""Annotation columns made from the columns of a table and the values that are stored already.

Shapes: N samples of a split, skipped ones included.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from layercache._units import pluralize
from layercache.cache.annotations.class_names import is_no_label
from layercache.cache.annotations.column import (
    MISSING_CLASS,
    MISSING_INTEGER,
    AnnotatedSplit,
    AnnotationColumn,
    Array,
)
from layercache.cache.annotations.frame import missing_rows
from layercache.cache.annotations.index import LABEL
from layercache.cache.annotations.table import TableColumn
from layercache.errors import DataError

logger = logging.getLogger(__name__)


def build_column(
    name: str,
    column: TableColumn,
    *,
    rows: Mapping[str, Array],
    splits: Mapping[str, AnnotatedSplit],
    stored: AnnotationColumn | None,
    partial: bool,
) -> AnnotationColumn:
    """Return the annotation column of a column of a table.

    Args:
        name: Its name.
        column: Column of the table.
        rows: Split -> row of the table for each of its N samples, int64 (N,); -1 for none.
        splits: Split -> its samples, of all splits of the cache.
        stored: The column of this name that it replaces.
        partial: Keep the stored value, and the stored classes, of samples without a row.

    Raises:
        DataError: The values are of another kind than the stored ones that are kept.
    """
    if name == LABEL:
        column = _as_label(column)
    column = _reorder_classes(column, stored, keep_all=partial)
    empty = AnnotationColumn(
        name=name, kind=column.kind, classes=column.classes, splits={}, values={}
    )
    before = _recode(stored, empty) if partial and stored else {}
    values = {}
    for split, of_split in rows.items():
        values[split] = before.get(split, missing_rows(empty, len(of_split))).copy()
        found = of_split >= 0
        values[split][found] = column.values[of_split[found]]
    for split, old in before.items():
        values.setdefault(split, old)
    return AnnotationColumn(
        name=name,
        kind=column.kind,
        classes=column.classes,
        splits={split: splits[split] for split in values},
        values=values,
    )


def _as_label(column: TableColumn) -> TableColumn:
    """Return a column as the label: whole numbers are names of classes, -1 is none."""
    kind, classes, values = column.kind, list(column.classes), column.values
    if kind == "integer":
        numbers = np.unique(values[values != MISSING_INTEGER])
        classes = [str(number) for number in numbers.tolist()]
        codes = np.searchsorted(numbers, values)
        values = np.where(values == MISSING_INTEGER, MISSING_CLASS, codes).astype(np.int32)
        kind = "class"
    none = next((c for c, name in enumerate(classes) if is_no_label(name)), None)
    if kind == "class" and none is not None:
        n_none = int((values == none).sum())
        verb = "is" if n_none == 1 else "are"
        logger.info("label: %s of -1 %s no label", pluralize(n_none, "value"), verb)
        values = np.where(values == none, MISSING_CLASS, values - (values > none)).astype(np.int32)
        del classes[none]
    return TableColumn(kind=kind, classes=tuple(classes), values=values)


def _reorder_classes(
    column: TableColumn, stored: AnnotationColumn | None, *, keep_all: bool
) -> TableColumn:
    """Return classes in the order that they have in the stored column, new ones after them.

    Args:
        column: The new column.
        stored: The one that it replaces.
        keep_all: Keep classes that the new column does not have.
    """
    if stored is None or column.kind != "class" or stored.kind != "class":
        return column
    new = [name for name in column.classes if name not in set(stored.classes)]
    old = [name for name in stored.classes if keep_all or name in set(column.classes)]
    classes = (*old, *new)
    number = {name: c for c, name in enumerate(classes)}
    lookup = np.array([*(number[name] for name in column.classes), MISSING_CLASS], np.int32)
    return TableColumn(kind="class", classes=classes, values=lookup[column.values])


def _recode(stored: AnnotationColumn, column: AnnotationColumn) -> dict[str, Array]:
    """Return the stored values by split, as values of `column`.

    Raises DataError if they are of another kind.
    """
    if stored.kind != column.kind:
        raise DataError(
            f"{column.name}: expected {stored.kind} values as the column has already, got "
            f"{column.kind}: give values for all samples (without --partial), or use another name"
        )
    if column.kind != "class":
        return dict(stored.values)
    number = {name: c for c, name in enumerate(column.classes)}
    lookup = np.array([*(number[name] for name in stored.classes), MISSING_CLASS], np.int32)
    return {split: lookup[values] for split, values in stored.values.items()}
