"""Reads a target from annotation columns: which task it is, its classes and values.

Shapes: N samples of all splits together, C columns.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np

from layercache._units import pluralize
from layercache.cache.annotations.column import AnnotationColumn, is_missing
from layercache.errors import OptionError, ProbeError, UnknownNameError
from layercache.probing.heads.spec import CLASSIFICATION, MULTI_LABEL, REGRESSION, TASKS
from layercache.probing.targets.target import LABEL, Target, TargetValues, label_target

if TYPE_CHECKING:
    import pandas as pd

    from layercache.cache.cache import Cache

logger = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]
Column = tuple[Array, Array]
"""Values (N,), and where they are present, bool (N,)."""

SPLIT = "split"
FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, "no": 0, "yes": 1}
"""Class names that are read as 0 or 1."""
MANY_CLASSES = 0.2
"""Share of different values among the samples from which integers are hardly classes."""


def read_target(
    cache: Cache, columns: str | Sequence[str] | None = None, *, task: str | None = None
) -> Target:
    """Return the target of a probe.

    Args:
        cache: Cache with the annotations.
        columns: A column, several ones ("a,b,c" or a sequence), or None: the dataset's own label.
        task: classification, multi-label or regression. Default: several columns of 0 and 1 are
            multi-label, floats are a regression, everything else are classes.

    Raises:
        UnknownNameError: There is no such column or task.
        OptionError: The columns do not allow the task.
        ProbeError: A float is infinite.
    """
    names = tuple(word.strip() for word in columns.split(",")) if isinstance(columns, str) else ()
    names = names or tuple(columns or (LABEL,))
    if names == (LABEL,) and cache.label is None:
        raise OptionError(
            f"{cache.path}: its dataset has no labels: add them from a table with the columns id "
            f"and label (layercache annotate {quote(str(cache.path))} TABLE), or name another "
            "column (target, --target)"
        )
    label = label_target(cache)
    is_class = cache.label is None or cache.label.kind in ("class", "multi-label")
    if names == (LABEL,) and task in (None, label.task) and is_class:
        return label
    column = cache.annotation_columns.get(names[0])
    if len(names) == 1 and column is not None and column.kind == MULTI_LABEL:
        return _multi_label_target(cache, column, task=task)
    return target_of_table(
        cache.annotations, names, task=task, digests=cache.annotation_digests, where=str(cache.path)
    )


def _multi_label_target(cache: Cache, column: AnnotationColumn, *, task: str | None) -> Target:
    """Return a column that holds several classes per sample as a target."""
    if task not in (None, MULTI_LABEL):
        raise OptionError(
            f"task: column {column.name!r} holds several classes per sample, which are the task "
            f"multi-label, not {task}: leave task out"
        )
    by_split = {}
    for name, values in column.values.items():
        if not cache.complete(name):
            continue
        kept = values[cache.split(name).kept_rows]
        by_split[name] = TargetValues(values=kept, present=~is_missing(kept, column.kind))
    return Target(
        columns=(column.name,),
        task=MULTI_LABEL,
        classes=column.classes,
        digests={column.name: column.digest},
        by_split=by_split,
    )


def target_of_table(
    table: pd.DataFrame,
    columns: Sequence[str],
    *,
    task: str | None = None,
    digests: Mapping[str, str] | None = None,
    where: str = "annotations",
) -> Target:
    """Return a target from a table as `Cache.annotations` is.

    Args:
        table: A row per sample in the order of the splits' rows, with the column "split".
        columns: Names of the columns.
        task: See `read_target`.
        digests: Digest of each column.
        where: Where the table is from, for messages.

    Raises:
        UnknownNameError: There is no such column or task.
        OptionError: The columns do not allow the task.
        ProbeError: A float is infinite.
    """
    _check_names(table, columns, task=task, where=where)
    task = task or _infer_task(table, columns)
    if task == CLASSIFICATION:
        classes, values, present = _read_classes(table[columns[0]], columns)
    else:
        read = _read_flags if task == MULTI_LABEL else _read_floats
        parts = [read(table[name]) for name in columns]
        classes = tuple(columns)
        values = np.stack([part for part, _ in parts], axis=1)
        present = np.all([part for _, part in parts], axis=0)
    split_of_row = table[SPLIT].astype(str).to_numpy()
    return Target(
        columns=tuple(columns),
        task=task,
        classes=classes,
        digests={name: digests[name] for name in columns} if digests else {},
        by_split={
            str(split): TargetValues(
                values=values[split_of_row == split], present=present[split_of_row == split]
            )
            for split in dict.fromkeys(split_of_row)
        },
    )


def _check_names(
    table: pd.DataFrame, columns: Sequence[str], *, task: str | None, where: str
) -> None:
    if task is not None and task not in TASKS:
        raise UnknownNameError("task", task, TASKS)
    known = [str(name) for name in table.columns if name != SPLIT]
    for name in columns:
        if name in known:
            continue
        hint = f"({where}; `layercache annotate` adds columns)"
        raise UnknownNameError("annotation column", name, known, hint=hint)
    if len(set(columns)) < len(columns):
        raise OptionError(f"target: expected each column once, got {', '.join(columns)}")
    if task == CLASSIFICATION and len(columns) > 1:
        raise OptionError(
            f"task: classification has one column, got {len(columns)}: choose one, or the task "
            "multi-label for columns of 0 and 1"
        )
    for name in columns:
        tuples = table[name].dtype == object and any(isinstance(v, tuple) for v in table[name])
        if tuples:
            raise OptionError(
                f"target: column {name!r} holds several classes per sample and is a target by "
                "itself only: leave out the other columns"
            )


def _infer_task(table: pd.DataFrame, columns: Sequence[str]) -> str:
    from pandas.api.types import is_float_dtype

    floats = [name for name in columns if is_float_dtype(table[name].dtype)]
    if len(columns) == 1:
        return REGRESSION if floats else CLASSIFICATION
    if all(_are_flags(table[name]) for name in columns):
        return MULTI_LABEL
    if len(floats) == len(columns):
        return REGRESSION
    others = [name for name in columns if not _are_flags(table[name])]
    raise OptionError(
        f"target: expected columns of 0 and 1 for a multi-label target, or of floats for a "
        f"regression, got others in {', '.join(others)}: name the task (task, --task), or one "
        "column"
    )


def _are_flags(column: pd.Series[Any]) -> bool:
    return all(_flag(value) is not None for value in column.dropna().unique())


def _flag(value: Any) -> int | None:
    """Return 0 or 1 of a value that means one of them, else None."""
    if isinstance(value, str):
        return FLAGS.get(value.strip().lower())
    return int(value) if value in (0, 1) else None


def _read_flags(column: pd.Series[Any]) -> Column:
    present = column.notna().to_numpy()
    if not _are_flags(column):
        bad = next(value for value in column.dropna().unique() if _flag(value) is None)
        raise OptionError(
            f"task: a multi-label target has columns of 0 and 1, column {column.name!r} has "
            f"{str(bad)!r}: choose another task or other columns"
        )
    values = np.zeros(len(column), np.uint8)
    values[present] = np.array([_flag(value) for value in column[present]], np.uint8)
    return values, present


def _read_floats(column: pd.Series[Any]) -> Column:
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype) or column.dtype == object:
        numbers = pd.to_numeric(column.astype(object), errors="coerce")
        if bad := column[column.notna() & numbers.isna()].astype(str).tolist():
            raise OptionError(
                f"task: a regression needs numbers, column {column.name!r} has {bad[0]!r} and "
                f"{len(bad) - 1} more that are none: choose another column, or the task "
                "classification"
            )
        column = numbers
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if n_infinite := int(np.isinf(values).sum()):
        raise ProbeError(
            f"column {column.name!r}: {pluralize(n_infinite, 'value')} of {len(values)} "
            f"{'is' if n_infinite == 1 else 'are'} infinite: correct the table and run "
            "`layercache annotate` again (an empty field leaves the sample out)"
        )
    return values, ~np.isnan(values)


def _read_classes(
    column: pd.Series[Any], columns: Sequence[str]
) -> tuple[tuple[str, ...], Array, Array]:
    """Return class names, class numbers (0 where missing), and where they are present."""
    import pandas as pd
    from pandas.api.types import is_float_dtype, is_integer_dtype

    present = column.notna().to_numpy()
    if isinstance(column.dtype, pd.CategoricalDtype):
        names = [str(name) for name in column.cat.categories]
        return tuple(names), np.maximum(column.cat.codes.to_numpy(np.int64), 0), present
    if is_float_dtype(column.dtype) and (column.dropna() % 1 != 0).any():
        raise OptionError(
            f"task: column {columns[0]!r} holds numbers with fractions, which are no classes: "
            "leave task out for a regression"
        )
    if is_float_dtype(column.dtype):
        column = column.astype("Int64")
    different = sorted(column.dropna().unique())
    if is_integer_dtype(column.dtype) and len(different) > MANY_CLASSES * max(present.sum(), 1):
        logger.warning(
            "column %r has %s on %s, taken as classes; for numbers, choose the task regression "
            "(task, --task)",
            columns[0],
            pluralize(len(different), "different integer"),
            pluralize(int(present.sum()), "sample"),
        )
    codes = pd.Categorical(column, categories=different).codes
    return tuple(map(str, different)), np.maximum(codes.astype(np.int64), 0), present
