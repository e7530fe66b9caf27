"""Changes between a column and the one that replaces it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from layercache._units import pluralize
from layercache.cache.annotations.column import (
    MISSING_CLASS,
    AnnotationColumn,
    Array,
    is_missing,
)
from layercache.cache.annotations.frame import rows_of


@dataclass(frozen=True, kw_only=True)
class ColumnChange:
    """Change that `annotate` made to one column."""

    name: str
    kind: str
    """"class", "integer", "float" or "multi-label"."""
    classes: tuple[str, ...]
    values: int
    """Number of samples that have a value."""
    missing: int
    """Number of samples without one."""
    changed: int | None
    """Number of samples with another value than before; None for a new column."""
    digest: str
    """Version of the column, 12 hex digits."""
    previous: str | None
    """Version that it replaces, or None."""

    def describe(self) -> str:
        """Return the column as one line."""
        n_classes = "1 class" if len(self.classes) == 1 else f"{len(self.classes):,} classes"
        kind = {"integer": "integers", "float": "numbers"}.get(self.kind, n_classes)
        missing = f", {self.missing:,} missing" if self.missing else ""
        values = pluralize(self.values, "value")
        return f"{self.name}: {kind}, {values}{missing}; version {self.digest}"

    def summary(self) -> str:
        """Return the column and its change as one line."""
        if self.changed is None:
            change = "new"
        elif self.previous == self.digest:
            change = "as before"
        else:
            change = f"{pluralize(self.changed, 'value')} changed, version {self.previous} before"
        return f"{self.describe()} ({change})"


def compare(
    column: AnnotationColumn, stored: AnnotationColumn | None, *, kept: Mapping[str, Array]
) -> ColumnChange:
    """Return what changes when a column replaces the stored one.

    Args:
        column: The new column.
        stored: The one that it replaces, or None.
        kept: Split -> positions of the samples that have tokens; the others are not counted.
    """
    missing = sum(
        int(is_missing(rows_of(column, split, rows), column.kind).sum())
        for split, rows in kept.items()
    )
    changed = None
    if stored is not None:
        changed = 0
        for split, rows in kept.items():
            before, after = rows_of(stored, split, rows), rows_of(column, split, rows)
            changed += _count_changed(stored, before, column, after)
    return ColumnChange(
        name=column.name,
        kind=column.kind,
        classes=column.classes,
        values=sum(map(len, kept.values())) - missing,
        missing=missing,
        changed=changed,
        digest=column.digest,
        previous=stored.digest if stored else None,
    )


def _count_changed(
    old: AnnotationColumn, before: Array, new: AnnotationColumn, after: Array
) -> int:
    """Return the number of samples whose value is another one, compared by the classes' names."""
    if old.kind != new.kind:
        return len(after)
    if new.kind == "class":
        number = {name: c for c, name in enumerate(new.classes)}
        lookup = [number.get(name, len(number)) for name in old.classes]
        before = np.array([*lookup, MISSING_CLASS], np.int32)[before]
    if new.kind == "float":
        return int((~np.isclose(before, after, rtol=0, atol=0, equal_nan=True)).sum())
    if new.kind == "multi-label":
        return (
            int((before != after).any(axis=1).sum()) if old.classes == new.classes else len(after)
        )
    return int((before != after).sum())
