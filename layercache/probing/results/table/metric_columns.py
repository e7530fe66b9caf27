"""Metrics of the results table that are computed from the stored predictions on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layercache.errors import OptionError
from layercache.probing.metrics import find_metric, metrics_of, task_of
from layercache.probing.results.probe_store import Probe

if TYPE_CHECKING:
    import pandas as pd

LOW, HIGH = "ci95_low", "ci95_high"
"""End of the columns that hold an interval."""


def add_metrics(
    table: pd.DataFrame, probes: Sequence[Probe], names: Sequence[str], *, intervals: bool
) -> pd.DataFrame:
    """Return a table of these probes with the test metrics of these names.

    Args:
        table: One row per probe.
        probes: Probes, in the order of the rows.
        names: Metrics; NaN for probes whose task has no such metric.
        intervals: Add the bounds of each metric's 95 % bootstrap interval over test samples.

    Raises:
        OptionError: No probe's task has one of the metrics.
    """
    tasks = [task_of(probe.spec["head_spec"]) for probe in probes]
    for name in names:
        if probes and not any(task in find_metric(name).families for task in tasks):
            others = " or ".join(dict.fromkeys(tasks))
            raise OptionError(
                f"metrics: {name} is not a metric of {others}; expected "
                f"{', '.join(dict.fromkeys(n for task in tasks for n in metrics_of(task)))}"
            )
    columns: dict[str, list[float]] = {}
    for probe, task in zip(probes, tasks, strict=True):
        own = [name for name in names if task in find_metric(name).families]
        values = {f"test_{name}": value for name, value in probe.metrics(own).items()}
        if intervals:
            for name, (low, high) in probe.intervals(own).items():
                values |= {f"test_{name}_{LOW}": low, f"test_{name}_{HIGH}": high}
        for name in names:
            ends = ("", f"_{LOW}", f"_{HIGH}") if intervals else ("",)
            for column in (f"test_{name}{end}" for end in ends):
                columns.setdefault(column, []).append(values.get(column, float("nan")))
    return table.assign(**columns)
