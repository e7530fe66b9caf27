"""Test scores for each value of an annotation column, such as the hospital, and the worst one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layercache._units import pluralize
from layercache.cache.cache import Cache, load_cache
from layercache.errors import CacheError, OptionError, UnknownNameError
from layercache.probing.metrics import Metric, compute, selection_metric_of, task_of
from layercache.probing.results.predictions import Predictions
from layercache.probing.results.probe_store import Probe
from layercache.probing.results.table.columns import full_row

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

MAX_VALUES = 200
"""Largest number of different values of a column."""
MAX_SHOWN_VALUES = 8
"""Largest number of values that a text shows each in a column of its own."""
NO_VALUE = "(none)"
"""Name of the samples without a value."""
WORST = "worst"
IDENTITY = (
    "probe", "model", "dataset", "head", "layers", "tokens", "spatial", "target", "val_split",
    "folds", "repeats", "group", "fold_column", "refit", "test_split", "seed", "shots",
    "train_fraction",
)  # fmt: skip
"""Columns of the results table that identify the probe of a row."""

Row = dict[str, Any]


def scores_by(
    probes: Iterable[Probe], column: str, *, caches: Iterable[Cache] = ()
) -> pd.DataFrame:
    """Return a row for each probe, test set and value of a column.

    Args:
        probes: Probes.
        column: Annotation column of the test samples.
        caches: Caches of the test samples; that around a probe need not be given.

    Returns:
        The columns of IDENTITY, then test, value, rows (number of samples), metric, score, and
        worst: True for the value with the worst score.
        Samples without a value have the value "(none)", which is never the worst.

    Raises:
        UnknownNameError: No cache has the column.
        OptionError: It has too many values, or the samples of a probe are not known.
    """
    import pandas as pd

    lookup = _Columns(column, caches)
    rows: list[Row] = []
    for probe in probes:
        for test in probe.tests:
            rows += _rows_of(probe, test, lookup)
    lookup.check_found()
    names = [*IDENTITY, "test", "value", "rows", "metric", "score", WORST]
    return pd.DataFrame({name: [row[name] for row in rows] for name in names})


class _Columns:
    """The column in the caches of the tests, which are opened once."""

    def __init__(self, column: str, caches: Iterable[Cache]) -> None:
        self.column = column
        self._caches = {cache.spec.fingerprint: cache for cache in caches}
        self._values: dict[tuple[str, str], Mapping[str, str]] = {}
        self._without: set[tuple[str, str]] = set()
        self._known: set[str] = set()
        self._found = False

    def of_test(self, probe: Probe, test: str) -> Mapping[str, str] | None:
        """Return id -> value of the samples of a test set, or None if it has no such column."""
        fingerprint, split = _source_of(probe, test)
        cache = self._caches.get(fingerprint) or self._around(probe, fingerprint)
        if cache is None:
            logger.warning(
                "probe %s: the cache of test %s was not found, so its scores by %s are left out",
                probe.id,
                test,
                self.column,
            )
            return None
        self._known.update(cache.annotation_digests)
        if self.column not in cache.annotation_digests:
            if (fingerprint, split) not in self._without:
                logger.info("test set %s has no annotation %r", test, self.column)
            self._without.add((fingerprint, split))
            return None
        self._found = True
        if (fingerprint, split) not in self._values:
            table = cache.annotations
            values = table.loc[(table["split"] == split).to_numpy(), self.column]
            texts = values.astype(object).where(values.notna(), NO_VALUE).map(str)
            self._check(texts.nunique())
            names = map(str, texts.index)
            self._values[fingerprint, split] = dict(zip(names, texts.tolist(), strict=True))
        return self._values[fingerprint, split]

    def check_found(self) -> None:
        """Raise UnknownNameError if no test set has the column."""
        if not self._found:
            hint = "(`layercache annotate` adds columns)"
            raise UnknownNameError("annotation column", self.column, self._known, hint=hint)

    def _around(self, probe: Probe, fingerprint: str) -> Cache | None:
        try:
            cache = load_cache(probe.path.parent.parent)
        except CacheError:
            return None
        self._caches[cache.spec.fingerprint] = cache
        return self._caches.get(fingerprint)

    def _check(self, count: int) -> None:
        if count > MAX_VALUES:
            raise OptionError(
                f"by: expected a column of at most {MAX_VALUES} values, got {count} of "
                f"{self.column!r}: annotate ranges of it instead"
            )


def _source_of(probe: Probe, test: str) -> tuple[str, str]:
    """Return the fingerprint and the split of a test set."""
    number = probe.tests.index(test)
    own = str(probe.spec["sources"][0]["fingerprint"])
    if number == 0:
        return own, test
    further = probe.spec["tests"][number - 1]
    return str(further.get("fingerprint") or own), str(further["split"])


def _rows_of(probe: Probe, test: str, lookup: _Columns) -> Iterator[Row]:
    values = lookup.of_test(probe, test)
    if values is None:
        return
    predictions = probe.predictions(test)
    if predictions.sample_ids is None:
        raise OptionError(
            f"by: probe {probe.id} does not record which samples it was tested on: train it again "
            "with refresh=True (--refresh)"
        )
    of_row = np.array([values.get(name, NO_VALUE) for name in predictions.sample_ids], object)
    metric = selection_metric_of(probe.spec)
    scores = {
        value: _score(predictions, of_row == value, metric=metric, probe=probe)
        for value in sorted(set(of_row.tolist()), key=_order)
    }
    defined = [
        value for value, score in scores.items() if value != NO_VALUE and not np.isnan(score)
    ]
    worst = min(defined, key=lambda value: metric.sign * scores[value], default=None)
    columns = full_row(probe)
    for value, score in scores.items():
        yield {
            **{name: columns.get(name) for name in IDENTITY},
            "probe": probe.id,
            "test": test,
            "value": value,
            "rows": int((of_row == value).sum()),
            "metric": metric.name,
            "score": score,
            WORST: value == worst,
        }


def _score(predictions: Predictions, rows: Any, *, metric: Metric, probe: Probe) -> float:
    scores = compute(
        predictions.logits[rows],
        predictions.targets[rows],
        task=task_of(probe.spec["head_spec"]),
        names=[metric.name],
    )
    return float(scores[metric.name])


def _order(value: str) -> tuple[bool, float, str]:
    """Return the key by which values are sorted: numbers by size, samples without one last."""
    try:
        return value == NO_VALUE, float(value), value
    except ValueError:
        return value == NO_VALUE, 0.0, value


def wide_table(scores: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return a row for each probe of one test set, and the columns of its scores.

    They are `test_METRIC@VALUE`, and at the end the worst score and its value. Of more than
    MAX_SHOWN_VALUES values only the best and the worst are shown.

    Args:
        scores: Rows of `scores_by` of one test set and one metric.
    """
    import pandas as pd

    metric = scores["metric"].iloc[0]
    values = list(dict.fromkeys(scores["value"]))
    rows = []
    for _, group in scores.groupby("probe", sort=False):
        by_value = dict(zip(group["value"], group["score"], strict=True))
        worst = group[group[WORST]]
        row = dict(group.iloc[0][list(IDENTITY)])
        if len(values) <= MAX_SHOWN_VALUES:
            row |= {f"test_{metric}@{value}": by_value.get(value, np.nan) for value in values}
        row[f"test_{metric}@{WORST}"] = worst["score"].iloc[0] if len(worst) else np.nan
        row[f"{WORST} value"] = worst["value"].iloc[0] if len(worst) else None
        rows.append(row)
    table = pd.DataFrame(rows)
    return table, [name for name in map(str, table.columns) if name not in IDENTITY]


def describe_values(scores: pd.DataFrame, *, column: str, test: str) -> str:
    """Return a line on the number of samples of each value of a test set."""
    counts = dict(zip(scores["value"], scores["rows"], strict=True))
    listed: Sequence[str] = [f"{value} {n}" for value, n in counts.items()]
    if len(listed) > MAX_SHOWN_VALUES:
        fewest = min(counts, key=lambda value: counts[value])
        listed = [f"{len(counts)} values, the rarest with {counts[fewest]}"]
    return f"{test} by {column}: {pluralize(sum(counts.values()), 'sample')} ({', '.join(listed)})"
