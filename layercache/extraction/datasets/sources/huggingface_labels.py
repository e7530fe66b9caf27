"""Labels of a Hugging Face dataset: from the label column of each split to one list of classes.

Shapes: N rows of a split, C classes of all splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from layercache.cache.annotations.class_names import is_no_label, sort_classes, unify_spellings
from layercache.errors import DataError

Array = np.ndarray[Any, Any]


class LabelCells(NamedTuple):
    """The label column of one split."""

    values: list[Any]
    """Per row: a class name, an int that names no class, or None; or a list of these."""
    names: tuple[str, ...] | None
    """Class names in label order, if the column is a ClassLabel."""
    lists: bool | None
    """Whether each row has a list of labels; None if the split has no such column."""


def element_type(feature: Any) -> Any:
    """Return the type of a list's elements, or the type itself."""
    return getattr(feature, "feature", feature)


def read_labels(table: Any, column: str) -> LabelCells:
    """Return the labels of a split by the split's own class names."""
    feature = table.features.get(column)
    if feature is None:
        return LabelCells([None] * len(table), None, None)
    element = element_type(feature)
    names = getattr(element, "names", None)

    def name_of(value: Any) -> Any:
        if value is None or value != value or is_no_label(str(value)):  # NaN differs from itself
            return None
        if names is None:
            return str(value)
        return names[value] if 0 <= value < len(names) else value

    lists = element is not feature
    cells = list(table[column])
    if lists:
        values: list[Any] = [None if row is None else [name_of(v) for v in row] for row in cells]
    else:
        values = [name_of(value) for value in cells]
    return LabelCells(values, None if names is None else tuple(names), lists)


def unify_names(cells: Mapping[str, LabelCells]) -> dict[str, LabelCells]:
    """Return the labels with one spelling for each class name, whatever its Unicode form."""
    names = {
        name
        for c in cells.values()
        for row in (*c.values, c.names)
        for name in (row if isinstance(row, list | tuple) else [row])
        if isinstance(name, str)
    }
    spelling: dict[Any, str] = dict(unify_spellings(names))
    if all(name == spelled for name, spelled in spelling.items()):
        return dict(cells)

    def unify(row: Any) -> Any:
        return (
            [spelling.get(v, v) for v in row] if isinstance(row, list) else spelling.get(row, row)
        )

    return {
        split: LabelCells(
            [unify(row) for row in c.values],
            None if c.names is None else tuple(spelling[name] for name in c.names),
            c.lists,
        )
        for split, c in cells.items()
    }


def is_multi_label(location: str, cells: Mapping[str, LabelCells]) -> bool:
    """Return whether each row has a list of labels.

    Raises:
        DataError: It has in one split, and a single label in another.
    """
    kinds = {split: c.lists for split, c in cells.items() if c.lists is not None}
    if len(set(kinds.values())) > 1:
        several = next(split for split, lists in kinds.items() if lists)
        single = next(split for split, lists in kinds.items() if not lists)
        raise DataError(
            f"hf:{location}: expected the same kind of labels in every split, got lists in "
            f"{several!r} and single labels in {single!r}: choose another column with label=COLUMN"
        )
    return any(kinds.values())


def drop_unlabelled(cells: dict[str, LabelCells], ignored: Counter[str]) -> None:
    """Leave out splits of lists in which every list is missing."""
    for split in [s for s, c in cells.items() if all(row is None for row in c.values)]:
        if len(cells) > 1:
            ignored[f"split {split!r}: no image has a label"] += len(cells.pop(split).values)


def class_names(
    location: str, cells: Mapping[str, LabelCells]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the class names of all splits together, and notes where splits differ.

    A ClassLabel's order is kept, that of the first split first; plain values are sorted.

    Raises:
        DataError: Plain values of one split are no class names of another.
    """
    tables = {split: c.names for split, c in cells.items() if c.names is not None}
    plain = {
        name
        for c in cells.values()
        if c.names is None
        for row in c.values
        for name in (row if isinstance(row, list) else [row])
        if name is not None
    }
    (first, first_names), *others = tables.items() or [("", ())]
    classes = list(first_names)
    classes += [name for _, names in others for name in names if name not in set(first_names)]
    classes = list(dict.fromkeys(classes)) if others else classes
    unknown = sort_classes(plain - set(classes))
    if tables and unknown:
        raise DataError(
            f"hf:{location}: the labels of {first!r} have {len(classes)} class names, those of "
            f"another split are plain values that are none of them, such as {unknown[0]!r}: cast "
            "the columns to one type, or choose another column with label=COLUMN"
        )
    classes += unknown
    notes = [
        f"split {split!r} numbers its classes differently than {first!r}: its labels are read by "
        "their names"
        for split, names in others
        if names != first_names
    ]
    return tuple(classes), tuple(notes)


def class_numbers(cells: LabelCells, classes: tuple[str, ...]) -> Array:
    """Return int64 (N,): class numbers, -1 for no label, a number >= C for an unknown one."""
    class_number: dict[Any, int] = {name: i for i, name in enumerate(classes)}
    class_number[None] = -1
    return np.asarray(
        [
            class_number[value] if value in class_number else max(value, len(classes))
            for value in cells.values
        ],
        np.int64,
    )


def indicators(location: str, split: str, cells: LabelCells, classes: tuple[str, ...]) -> Array:
    """Return uint8 (N, C)."""
    class_number = {name: i for i, name in enumerate(classes)}
    labels = np.zeros((len(cells.values), len(classes)), np.uint8)
    for i, row in enumerate(cells.values):
        where = f"hf:{location}: sample '{split}/{i:06d}'"
        if row is None or None in row:
            raise DataError(f"{where} has no label; an empty list means none of the classes")
        unknown = [value for value in row if value not in class_number]
        if unknown:
            raise DataError(f"{where} has label {unknown[0]}, expected 0 to {len(classes) - 1}")
        labels[i, [class_number[value] for value in row]] = 1
    return labels
