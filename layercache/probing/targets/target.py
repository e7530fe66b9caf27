"""Target of a probe: the dataset's own label, or one or several annotation columns.

Shapes: N rows of a split, C classes, or columns of a multi-label target or a regression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from layercache._units import pluralize
from layercache.errors import ProbeError
from layercache.probing.heads.spec import CLASSIFICATION, MULTI_LABEL, REGRESSION

if TYPE_CHECKING:
    from layercache.cache.cache import Cache
    from layercache.cache.reading.split import Split

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.int64]]

LABEL = "label"
"""Name of the column that is the dataset's own label."""


MAX_QUANTILES, ROWS_PER_QUANTILE = 10, 5
"""Number of quantiles by which floats are stratified, and the fewest rows of one: a validation part
of 20 % has one of them."""


@dataclass(frozen=True, kw_only=True)
class TargetValues:
    """A target on the rows of one split."""

    values: Array
    """int64 (N,) numbers of classes, uint8 (N, C) 0/1 for each class, or float64 (N, C); any value
    where it is missing."""
    present: Array
    """bool (N,), False where it is missing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """Target of a probe."""

    columns: tuple[str, ...] = (LABEL,)
    """Names of the annotation columns."""
    task: str
    """One of `probing.heads.spec.TASKS`."""
    classes: tuple[str, ...]
    """Names of the classes, or of the columns of a regression."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Digest of each column, 12 hex digits."""
    by_split: Mapping[str, TargetValues] | None = None
    """Values by split; None: the labels of the split."""

    @property
    def is_label(self) -> bool:
        """True for the dataset's own label."""
        return self.by_split is None

    @property
    def name(self) -> str:
        """The columns as text."""
        return ",".join(self.columns)

    def values(self, split: Split) -> Array:
        """Return the targets of all rows of a split; see `TargetValues.values`."""
        if self.by_split is None:
            return np.asarray(split.labels)
        return self._of(split.name).values

    def rows(self, split: Split) -> Rows:
        """Return the rows of a split that have a target, ascending.

        Raises:
            ProbeError: There is none.
        """
        if self.by_split is None:
            labels = split.labels
            present = labels != -1 if labels.ndim == 1 else np.ones(len(labels), bool)
        else:
            present = self._of(split.name).present
        rows: Rows = np.flatnonzero(present)
        if len(present) and not len(rows):
            raise ProbeError(
                f"none of the {len(present)} samples of split {split.name!r} has a value in "
                f"{self.describe_columns()}: add values with `layercache annotate`, or choose "
                "another split"
            )
        return rows

    def describe_columns(self) -> str:
        """Return "column 'age'" or "columns 'a', 'b'"."""
        names = ", ".join(repr(name) for name in self.columns)
        return f"column{'s' if len(self.columns) > 1 else ''} {names}"

    def describe_missing(self, split: Split) -> str:
        """Return in words how many samples of a split have no target, "" if all have one."""
        n_missing = split.rows - len(self.rows(split))
        if not n_missing:
            return ""
        verb = "has" if n_missing == 1 else "have"
        return (
            f"{n_missing} of {pluralize(split.rows, 'sample')} of split {split.name} {verb} no "
            f"value in {self.describe_columns()} and {'is' if n_missing == 1 else 'are'} left out"
        )

    def to_json(self) -> dict[str, Any]:
        """Return what a probe's specification records of a target; of the label its version."""
        annotations = {"annotations": dict(self.digests)}
        if self.is_label:
            return annotations
        return {"target": {"columns": list(self.columns), "task": self.task}, **annotations}

    def _of(self, split: str) -> TargetValues:
        assert self.by_split is not None
        if split not in self.by_split:
            raise ProbeError(
                f"split {split!r} has no values in {self.describe_columns()}: the annotations "
                f"cover {', '.join(self.by_split)}"
            )
        return self.by_split[split]


def label_target(cache: Cache) -> Target:
    """Return the dataset's own label as a target."""
    digest = cache.annotation_digests.get(LABEL)
    return Target(
        task=MULTI_LABEL if cache.multi_label else CLASSIFICATION,
        classes=cache.classes,
        digests={} if digest is None else {LABEL: digest},
    )


def stratify(values: Array, *, task: str) -> Array:
    """Return labels by which rows are stratified: the targets, or for floats their quantile.

    Args:
        values: Targets; see `TargetValues.values`.
        task: One of `probing.heads.spec.TASKS`.

    Returns:
        The values; for a regression, the number of the quantile, int64 (N,), of the target or of
        the mean of several standardized ones.
    """
    if task != REGRESSION:
        return values
    scale = values.std(0)
    score = ((values - values.mean(0)) / np.where(scale > 0, scale, 1.0)).mean(1)
    n_rows = len(score)
    n_bins = max(1, min(MAX_QUANTILES, n_rows // ROWS_PER_QUANTILE))
    ranks = np.empty(n_rows, np.int64)
    ranks[np.argsort(score, kind="stable")] = np.arange(n_rows)
    return ranks * n_bins // max(n_rows, 1)


def check_floats(values: Array, *, where: str) -> None:
    """Raise ProbeError unless the targets of a regression differ.

    Args:
        values: float64 (N, C), finite.
        where: Cache, split and columns, for errors.
    """
    if len(values) < 2:
        raise ProbeError(
            f"{where}: a regression needs at least two samples with a value, got {len(values)}"
        )
    for column in range(values.shape[1]):
        lowest, highest = values[:, column].min(), values[:, column].max()
        if lowest == highest:
            named = f" of target {column + 1}" if values.shape[1] > 1 else ""
            raise ProbeError(
                f"{where}: all {len(values)} values{named} are {lowest:g}; there is nothing to "
                "learn"
            )
