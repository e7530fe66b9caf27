"""The dataset's own label: the first annotation, which extractions write.

Shapes: N samples of a split, skipped ones included, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from layercache.cache.annotations.changes import compare
from layercache.cache.annotations.column import (
    AnnotatedSplit,
    AnnotationColumn,
    Array,
    is_missing,
)
from layercache.cache.annotations.index import (
    LABEL,
    AnnotationIndex,
    ColumnVersion,
    read_column,
    read_index,
    update_index,
)
from layercache.cache.format.cache_spec import SplitIdentity
from layercache.cache.storage.base import Store
from layercache.errors import CacheCorruptError

logger = logging.getLogger(__name__)


def label_column(
    labels: Mapping[str, Array],
    *,
    classes: Sequence[str],
    splits: Mapping[str, SplitIdentity],
) -> AnnotationColumn | None:
    """Return the label of a dataset as a column, or None if no sample has one.

    Args:
        labels: Split -> class numbers, int64 (N,), -1 for none; multi-label: uint8 (N, C) of 0/1.
        classes: Names of the classes.
        splits: Split -> its samples.
    """
    multi_label = any(values.ndim == 2 for values in labels.values())
    column = AnnotationColumn(
        name=LABEL,
        kind="multi-label" if multi_label else "class",
        classes=tuple(classes),
        splits={
            name: AnnotatedSplit(rows=splits[name].rows, ids=splits[name].ids) for name in labels
        },
        values={
            name: values if multi_label else np.maximum(values, -1)
            for name, values in labels.items()
        },
    )
    if all(is_missing(values, column.kind).all() for values in column.values.values()):
        return None
    return column


def record_label(store: Store, column: AnnotationColumn | None) -> None:
    """Make a column the label of a cache, and log what changes. Writes nothing if nothing does.

    A label of a table (`annotate`) stays; the dataset's own is then kept for when it is dropped.

    Args:
        store: The folder of the cache.
        column: The dataset's label; None if no sample has one: a stored label stays.

    Raises:
        CacheCorruptError: The stored list of columns is damaged.
        StorageError: The cache is not writable.
    """
    if column is None:
        return
    before = read_index(store)
    if before.dataset_label == column.digest and _is_whole(store, column.digest):
        return
    version = ColumnVersion.of(column, source="dataset")

    def change(index: AnnotationIndex) -> tuple[AnnotationIndex, list[AnnotationColumn]]:
        columns = dict(index.columns)
        if LABEL not in columns or columns[LABEL].source == "dataset":
            # first, also where another column was added earlier
            columns = {LABEL: version, **{n: v for n, v in columns.items() if n != LABEL}}
        return AnnotationIndex(columns=columns, dataset_label=column.digest), [column]

    index = update_index(store, change)
    if before.dataset_label in (None, column.digest):
        return
    if index.columns[LABEL].source == "table":
        logger.warning(
            "%s: the dataset's labels have changed; the label of a table stays (`layercache "
            "annotate %s --drop label` returns to the dataset's)",
            store.path("."),
            store.path("."),
        )
        return
    stored = read_column(store, str(before.dataset_label))
    kept = {name: np.arange(split.rows) for name, split in column.splits.items()}
    logger.warning(
        "%s: labels updated without an extraction: %s. Probes of the earlier labels are not "
        "compared with new ones",
        store.path("."),
        compare(column, stored, kept=kept).summary(),
    )


def _is_whole(store: Store, digest: str) -> bool:
    try:
        read_column(store, digest)
    except CacheCorruptError:
        return False
    return True
