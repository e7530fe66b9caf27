"""Further test sets of a probe: other splits of its cache, or caches of other datasets.

Shapes: N samples, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from layercache._units import join_words, pluralize
from layercache.cache.cache import Cache
from layercache.cache.reading.split import Split
from layercache.errors import ProbeError
from layercache.probing.heads.spec import CLASSIFICATION, REGRESSION
from layercache.probing.targets.target import Target, TargetValues
from layercache.probing.targets.target_columns import read_target

Array = np.ndarray[Any, Any]

MAX_LISTED_CLASSES = 5
UNKNOWN = -1
"""Number of a class that the head does not have."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TestSet:
    """Samples that a selected head is tested on."""

    __test__ = False  # no test case of pytest

    name: str
    """Name in columns of the table: that of the split, or of the dataset."""
    split: str
    """Split of the cache."""
    cache: Cache | None = None
    """Cache of another dataset; None: that of the probe."""

    def target_of(self, target: Target) -> Target:
        """Return the target of the head on these samples, with the classes of the head.

        Classes of another dataset are matched by name. Samples of classes that the head does not
        have are without a target.

        Args:
            target: What the head predicts.

        Raises:
            ProbeError: No sample has a target, or the dataset has none of the classes.
            UnknownNameError: The cache lacks an annotation column of the target.
        """
        if self.cache is None:
            return target
        other, split = self._other(target, self.cache)
        values = TargetValues(values=other.values(split), present=_is_present(other, split))
        mapped, present = map_classes(values, other=other, target=target)
        if not present.any():
            raise ProbeError(
                f"test {self.name}: the dataset of {split.path} and the head have no class in "
                f"common: {_list(other.classes)} there, {_list(target.classes)} here; give the "
                "classes the same names with `layercache annotate`"
            )
        return replace(target, by_split={split.name: TargetValues(values=mapped, present=present)})

    def describe_left_out(self, target: Target, *, cache: Cache) -> list[str]:
        """Return in words which samples are left out, and which classes do not occur.

        Args:
            target: What the head predicts.
            cache: Cache of the probe.

        Raises:
            ProbeError: As `target_of`.
            UnknownNameError: As `target_of`.
        """
        if self.cache is None:
            missing = target.describe_missing(cache.split(self.split))
            return [missing] if missing else []
        other, split = self._other(target, self.cache)
        n_kept = len(self.target_of(target).rows(split))
        notes = [other.describe_missing(split)]
        if target.task != REGRESSION:
            n_left_out = len(other.rows(split)) - n_kept
            notes += _describe_classes(other, target, n_left_out=n_left_out, n_rows=split.rows)
        return [f"test {self.name}: {note}" for note in notes if note]

    def _other(self, target: Target, cache: Cache) -> tuple[Target, Split]:
        columns = None if target.is_label else target.columns
        return read_target(cache, columns, task=target.task), cache.split(self.split)


def _is_present(target: Target, split: Split) -> Array:
    present = np.zeros(split.rows, bool)
    present[target.rows(split)] = True
    return present


def _describe_classes(
    other: Target, target: Target, *, n_left_out: int, n_rows: int
) -> Iterator[str]:
    unknown = [name for name in other.classes if name not in target.classes]
    missing = [name for name in target.classes if name not in other.classes]
    if n_left_out:
        yield (
            f"{n_left_out} of {pluralize(n_rows, 'sample')} are left out, of classes that the head "
            f"does not have: {_list(unknown)}"
        )
    elif unknown:
        yield f"classes that the head does not have: {_list(unknown)}"
    if missing:
        yield (
            f"without {len(missing)} of the {len(target.classes)} classes of the head (which it "
            f"may still predict): {_list(missing)}"
        )


def map_classes(values: TargetValues, *, other: Target, target: Target) -> tuple[Array, Array]:
    """Return the targets of another dataset by the classes of a head, and where they are present.

    Args:
        values: Targets by the classes of `other`.
        other: Target of the other dataset.
        target: Target of the head, of the same task.

    Returns:
        int64 (N,) class numbers, uint8 (N, C) 0/1, or float64 (N, C); and bool (N,). A multi-label
        sample has none of the classes that the other dataset lacks.
    """
    if target.task == REGRESSION:
        return values.values, values.present
    if target.task == CLASSIFICATION:
        number = {name: c for c, name in enumerate(target.classes)}
        lookup = np.array([number.get(name, UNKNOWN) for name in other.classes], np.int64)
        mapped = np.where(values.present, values.values, 0)
        mapped = lookup[mapped] if len(lookup) else mapped
        present = values.present & (mapped != UNKNOWN)
        return np.where(present, mapped, 0), present
    column = {name: c for c, name in enumerate(other.classes)}
    flags = np.zeros((len(values.values), len(target.classes)), np.uint8)
    for c, name in enumerate(target.classes):
        if name in column:
            flags[:, c] = values.values[:, column[name]]
    common = set(column) & set(target.classes)
    return flags, values.present & bool(common)


def _list(names: Sequence[str]) -> str:
    more = len(names) - MAX_LISTED_CLASSES
    listed = [*names[:MAX_LISTED_CLASSES], *([f"{more} more"] if more > 0 else [])]
    return join_words(listed)
