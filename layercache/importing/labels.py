"""Labels of imported samples as the first annotation of their cache.

Shapes: N samples of a split, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from layercache.cache.annotations.class_names import sort_classes
from layercache.cache.annotations.column import MISSING_FLAG, AnnotatedSplit, AnnotationColumn, Kind
from layercache.cache.annotations.index import LABEL
from layercache.cache.format.cache_spec import SplitIdentity
from layercache.errors import DataError
from layercache.importing.files import Array


def make_label_column(
    labels: Mapping[str, Array | None],
    *,
    classes: Sequence[str] | None,
    splits: Mapping[str, SplitIdentity],
) -> AnnotationColumn | None:
    """Return the labels as a column, or None if no split has any.

    Text is the name of a class ("" for none), an integer its number (-1 for none), (N, C) 0/1 for
    each class (a row of 255 for none), or a list of names (None for none). Floats are no classes: a
    probe predicts them as a regression.

    Args:
        labels: Split -> labels, or None.
        classes: Names of the classes in order; by default those that occur, or the numbers.
        splits: Split -> its samples.

    Raises:
        DataError: Labels are of several kinds, or no labels of the classes.
    """
    given = {name: np.asarray(values) for name, values in labels.items() if values is not None}
    if not given:
        return None
    kinds = {name: _kind(values, split=name) for name, values in given.items()}
    kind = next(iter(kinds.values()))
    if set(kinds.values()) != {kind}:
        described = ", ".join(f"{name}: {_describe(values)}" for name, values in given.items())
        raise DataError(f"expected labels of one kind in all splits, got {described}")
    names = _class_names(given, kind, classes)
    values = {name: _encode(array, kind, names, split=name) for name, array in given.items()}
    return AnnotationColumn(
        name=LABEL,
        kind=kind,
        classes=names,
        splits={
            name: AnnotatedSplit(rows=splits[name].rows, ids=splits[name].ids) for name in values
        },
        values=values,
    )


def _kind(values: Array, *, split: str) -> Kind:
    if _is_lists(values):
        return "multi-label"
    if values.ndim == 2 and np.isin(values, (0, 1, MISSING_FLAG)).all():
        return "multi-label"
    if values.ndim == 1 and values.dtype.kind in "iubUSO":
        return "class"
    if values.ndim == 1 and values.dtype.kind == "f":
        return "float"
    raise DataError(
        f"labels of split {split!r}: expected text, integers or floats (N,), or 0/1 (N, C); got "
        f"{_describe(values)}"
    )


def _describe(values: Array) -> str:
    return f"{values.dtype} {values.shape}"


def _is_text(values: Array) -> bool:
    return values.dtype.kind in "USO"


def _is_lists(values: Array) -> bool:
    return values.dtype.kind == "O" and any(isinstance(v, list | tuple) for v in values)


def _class_names(
    labels: Mapping[str, Array], kind: Kind, classes: Sequence[str] | None
) -> tuple[str, ...]:
    if kind == "float":
        return ()
    if classes is not None:
        return tuple(classes)
    if any(_is_lists(values) for values in labels.values()):
        listed = (names or () for values in labels.values() for names in values)
        return sort_classes({str(name) for names in listed for name in names})
    if kind == "multi-label":
        count = max(values.shape[1] for values in labels.values())
    elif any(_is_text(values) for values in labels.values()):
        found = {str(name) for values in labels.values() for name in values.tolist()}
        return sort_classes(found - {""})
    else:
        count = max(int(values.max()) for values in labels.values()) + 1
    return tuple(str(number) for number in range(count))


def _encode(values: Array, kind: Kind, classes: tuple[str, ...], *, split: str) -> Array:
    where = f"labels of split {split!r}"
    if kind == "float":
        return values.astype(np.float64)
    if _is_lists(values):
        return _encode_lists(values, classes, where=where)
    if kind == "multi-label":
        if values.shape[1] != len(classes):
            raise DataError(f"{where}: expected {len(classes)} columns, got {values.shape[1]}")
        return values.astype(np.uint8)
    if not _is_text(values):
        numbers = values.astype(np.int64)
        if numbers.min() < -1 or numbers.max() >= len(classes):
            raise DataError(
                f"{where}: expected numbers from 0 to {len(classes) - 1} ({len(classes)} classes), "
                f"or -1 for none, got {numbers.min()} to {numbers.max()}"
            )
        return numbers
    numbers_by_name = _numbers(classes) | {"": -1}
    texts = [str(name) for name in values.tolist()]
    if unknown := sorted(set(texts) - numbers_by_name.keys()):
        raise DataError(
            f"{where}: expected names of the {len(classes)} classes, got {unknown[0]!r} "
            f"({len(unknown)} such names)"
        )
    return np.array([numbers_by_name[text] for text in texts], np.int64)


def _encode_lists(values: Array, classes: tuple[str, ...], *, where: str) -> Array:
    numbers_by_name = _numbers(classes)
    flags = np.zeros((len(values), len(classes)), np.uint8)
    for row, names in enumerate(values):
        if names is None:
            flags[row] = MISSING_FLAG
            continue
        for name in names:
            if name not in numbers_by_name:
                raise DataError(
                    f"{where}: expected names of the {len(classes)} classes, got {name!r}"
                )
            flags[row, numbers_by_name[name]] = 1
    return flags


def _numbers(classes: tuple[str, ...]) -> dict[str, int]:
    return {name: number for number, name in enumerate(classes)}
