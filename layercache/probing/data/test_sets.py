"""Further test sets of a probe: other splits of its cache, or caches of other datasets.

Shapes: N samples, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from layercache._units import join_words, pluralize
from layercache.cache.cache import Cache
from layercache.cache.reading.split import Split
from layercache.errors import ProbeError
from layercache.probing.data.target import Target, TargetValues
from layercache.probing.data.target_columns import read_target
from layercache.probing.heads.spec import CLASSIFICATION, REGRESSION

logger = logging.getLogger(__name__)

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
        have are without a target, and are logged.

        Args:
            target: What the head predicts.

        Raises:
            ProbeError: The dataset has none of the classes.
            UnknownNameError: The cache lacks an annotation column of the target.
        """
        if self.cache is None:
            return target
        columns = None if target.is_label else target.columns
        other = read_target(self.cache, columns, task=target.task)
        split = self.cache.split(self.split)
        values, present = map_classes(self._values(other, split), other=other, target=target)
        self._log(other, split, present, target=target)
        return replace(target, by_split={split.name: TargetValues(values=values, present=present)})

    def _values(self, other: Target, split: Split) -> TargetValues:
        present = np.zeros(split.rows, bool)
        present[other.rows(split)] = True
        return TargetValues(values=other.values(split), present=present)

    def _log(self, other: Target, split: Split, present: Array, *, target: Target) -> None:
        if target.task == REGRESSION:
            return
        unknown = [name for name in other.classes if name not in target.classes]
        missing = [name for name in target.classes if name not in other.classes]
        n_left_out = len(other.rows(split)) - int(present.sum())
        notes = []
        if n_left_out:
            notes.append(
                f"{n_left_out} of {pluralize(split.rows, 'sample')} are left out, of classes that "
                f"the head does not have: {_list(unknown)}"
            )
        elif unknown:
            notes.append(f"classes that the head does not have: {_list(unknown)}")
        if missing:
            notes.append(
                f"without {len(missing)} of the {len(target.classes)} classes of the head "
                f"(which it may still predict): {_list(missing)}"
            )
        for note in notes:
            logger.info("test %s: %s", self.name, note)
        if not present.any():
            raise ProbeError(
                f"test {self.name}: the dataset of {split.path} and the head have no class in "
                f"common: {_list(other.classes)} there, {_list(target.classes)} here; give the "
                "classes the same names with `layercache annotate`"
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
