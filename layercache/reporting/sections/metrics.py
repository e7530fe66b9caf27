"""Chosen metrics of every kind of probe, from the stored predictions."""

from __future__ import annotations

import pandas as pd

from layercache._units import join_words
from layercache.probing.metrics import Metric, find_metric, task_of
from layercache.probing.results.table.formatting import format_score
from layercache.reporting.analysis.gains import KIND_COLUMNS, row_kinds
from layercache.reporting.data.report_data import ReportData
from layercache.reporting.page import Block, CommandHint, Section, Table

TITLE = "Other metrics"


def metric_section(data: ReportData) -> Section:
    """Show the chosen metrics, means over seeds, or the command that chooses some."""
    if not data.metrics:
        hint = CommandHint(
            text="Any metric of docs/metrics.md can be computed from the stored predictions:",
            commands=[f"layercache report --metrics roc_auc,f1_macro,log_loss{data.cache_option}"],
        )
        return Section(title=TITLE, blocks=[hint])
    frame = metric_table(data)
    metrics = [find_metric(name) for name in data.metrics]
    view = frame[["dataset", "model"]].assign(probe=[str(kind) for kind in row_kinds(frame)])
    for metric in metrics:
        heading = f"{metric.title}, %" if metric.percent else metric.title
        view[heading] = [_in_words(metric, *pair) for pair in _pairs(frame, metric)]
    view["seeds"] = frame["n_seeds"]
    lower = [metric.title for metric in metrics if not metric.higher_is_better]
    caption = "Means on the test images, ± standard deviation over seeds."
    if lower:
        caption += f" Lower is better: {join_words(lower)}."
    table: Block = Table(name="metrics", frame=frame, caption=caption, view=view)
    return Section(title=TITLE, blocks=[table])


def metric_table(data: ReportData) -> pd.DataFrame:
    """Return means and standard deviations over seeds of the chosen metrics.

    One row per combination and kind of probe, with columns <name> and <name>_std; NaN where a task
    has no such metric.
    """
    rows = data.standard
    values = []
    for folder in rows["probe"]:
        probe = data.probes[folder]
        task = task_of(probe.spec["head_spec"])
        wanted = [name for name in data.metrics if task in find_metric(name).families]
        known = probe.metrics(wanted) if wanted else {}
        values.append({name: known.get(name, float("nan")) for name in data.metrics})
    scores = pd.DataFrame(values, index=rows.index, columns=list(data.metrics), dtype=float)
    columns = ["dataset", "model", "combination", *KIND_COLUMNS]
    grouped = rows[columns].join(scores).groupby(columns, sort=False)
    statistics = {name: (name, "mean") for name in data.metrics}
    statistics |= {f"{name}_std": (name, "std") for name in data.metrics}
    return grouped.agg(**statistics).join(grouped.size().rename("n_seeds")).reset_index()


def _pairs(frame: pd.DataFrame, metric: Metric) -> list[tuple[float, float]]:
    return list(zip(frame[metric.name], frame[f"{metric.name}_std"], strict=True))


def _in_words(metric: Metric, mean: float, std: float) -> str:
    if mean != mean:
        return ""
    deviation = "" if std != std else f" ± {format_score(metric, std)}"
    return format_score(metric, mean) + deviation
