"""The part of the results table that people see: where its rows differ, and what all share.

Columns in which no rows differ are left out of a text and named once below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from layercache._units import join_words
from layercache.probing.metrics import selection_metric_of
from layercache.probing.results.identity import Settings
from layercache.probing.results.probe_store import Probe
from layercache.probing.results.table.formatting import (
    INTERVAL,
    format_table,
    format_value,
    heading,
    score_metric,
)

if TYPE_CHECKING:
    import pandas as pd

ALWAYS_SHOWN = ("model", "dataset", "head", "layers", "tokens")
DEFAULTS: Mapping[str, Any] = {
    "target": "label",
    "train_split": "train",
    "val_split": None,
    "folds": None,
    "repeats": 1,
    "group": None,
    "fold_column": None,
    "refit": "train",
    "test_split": "test",
    "further_tests": "",
    "spatial": "",
    "gate": "",
    "join": "",
    "shots": None,
    "train_fraction": None,
    "search": "full",
    "seed": None,
}
"""Columns that are shown if they differ between rows, and named if they are not the default."""
HPARAMS = ("lr", "weight_decay", "dropout", "spatial_share", "config")
MAX_WIDTH = 100
"""Characters of a line of text."""
OPTIONAL = (
    "train_seconds", "n_params", "test_top1_accuracy", "dropout", "weight_decay", "test_spearman",
    "test_rmse", "lr",
)  # fmt: skip
"""Columns that make way if a text would be wider, the first of them first; then validation scores
and the id do."""


def identity_columns(
    table: pd.DataFrame, settings: Sequence[Settings]
) -> tuple[pd.DataFrame, list[str]]:
    """Return the columns that tell the rows apart, as few as possible.

    Args:
        table: Rows with the columns of the results table.
        settings: Settings of each row.

    Returns:
        The table, with a column for every setting without which rows would look alike, and the
        names of the columns.
    """
    names = [*ALWAYS_SHOWN]
    names += [n for n in DEFAULTS if n in table and _n_values(table[n]) > 1]
    if not table.duplicated(names).any():
        return table, names
    rows = [_named_values(row) for row in settings]
    for name in dict.fromkeys(name for row in rows for name in row):
        extended = table.assign(**{name: [row.get(name, "") for row in rows]})
        if extended.groupby(names, dropna=False)[name].nunique().max() > 1:
            table, names = extended, [*names, name]
    return table, names


def to_text(
    table: pd.DataFrame, identity: Sequence[str], values: Sequence[str], *, notes: Sequence[str]
) -> str:
    """Return a table that fits MAX_WIDTH, and below it what all of its rows share, and notes.

    If leaving out columns does not suffice, the scores are in several tables, one below another.

    Args:
        table: Rows, with at least these columns.
        identity: Columns that tell the rows apart.
        values: Further columns, the selected hyperparameters and the scores.
        notes: Remarks, a line each, which are wrapped.
    """
    several = len(table) > 1
    shared = [n for n in ("model", "dataset") if _n_values(table[n]) == 1]
    shared += [n for n in DEFAULTS if n in table and n not in identity]
    shared += [n for n in (*HPARAMS, "n_params") if several and n in values and _same(table[n])]
    names = [n for n in (*identity, *values) if n not in shared]
    dropped: list[str] = []
    validation = [n for n in names if n.startswith("val_") and score_metric(n) is not None]
    for name in (*OPTIONAL, *validation, "probe"):
        if _width(format_table(table[names], "text")) <= MAX_WIDTH:
            break
        if name in names:
            names.remove(name)
            dropped.append(name)
    if _width(format_table(table[names], "text")) > MAX_WIDTH and "probe" in dropped:
        names.append("probe")
        dropped.remove("probe")
    text = "\n\n".join(format_table(table[part], "text") for part in _parts(table, names, identity))
    lines = []
    if words := _shared_values(table, shared):
        lines.append(f"{'all rows:' if several else 'with'} {', '.join(words)}")
    if dropped:
        lines.append(f"left out for width: {join_words([heading(name) for name in dropped])}")
    return "\n".join([text, "", *(fill(line, MAX_WIDTH) for line in [*lines, *notes])])


def _parts(table: pd.DataFrame, names: Sequence[str], identity: Sequence[str]) -> list[list[str]]:
    """Return the columns of each table: those that tell the rows apart, and scores that fit."""
    first = [name for name in names if name in identity]
    units: list[list[str]] = []
    for name in names:
        if name.endswith(INTERVAL) and units:
            units[-1].append(name)  # it stays with its score
        elif name not in identity:
            units.append([name])
    parts = [list(first)]
    for unit in units:
        is_wide = _width(format_table(table[[*parts[-1], *unit]], "text")) > MAX_WIDTH
        if is_wide and len(parts[-1]) > len(first):
            parts.append(list(first))
        parts[-1] += unit
    return parts


def combine_mean_and_std(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a column of text for each score: "85.10 ± 0.42", in percent."""
    scores = [
        name.removesuffix("_mean")
        for name in map(str, table.columns)
        if name.endswith("_mean") and score_metric(name) is not None
    ]
    columns = {}
    for name in scores:
        pairs = zip(table[f"{name}_mean"], table[f"{name}_std"], strict=True)
        columns[name] = [
            " ± ".join(text for v in pair if (text := format_value(name, v)) != "-")
            for pair in pairs
        ]
    return table.assign(**columns)


def combine_bounds(table: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """Return the table with a column of text for the interval of each score: "82.10 to 88.00"."""
    columns = {}
    for name in scores:
        low, high = (f"{name}{INTERVAL}_{end}" for end in ("low", "high"))
        if low in table:
            columns[f"{name}{INTERVAL}"] = [
                " to ".join(format_value(name, value) for value in bounds)
                for bounds in zip(table[low], table[high], strict=True)
            ]
    return table.assign(**columns)


def name_gains(table: pd.DataFrame, probes: Sequence[Probe]) -> pd.DataFrame:
    """Return the table with gains as text, "improvement", where not all are percentage points."""
    metrics = [selection_metric_of(probe.spec) for probe in probes]
    if all(metric.percent for metric in metrics):
        return table
    texts = [
        format_value("gain", gain) + (" pp" if gain == gain else "")
        if metric.percent or gain != gain
        else f"{gain + 0.0:+.4g}"
        for gain, metric in zip(table["gain"], metrics, strict=True)
    ]
    return table.assign(improvement=texts).drop(columns="gain")


def _named_values(settings: Settings) -> dict[str, str]:
    """Return the settings that no column of DEFAULTS has, those of training first."""
    digests = {name: value for name, value in settings.data.items() if name.endswith("digest")}
    task = {"task": settings.data["task"]}
    return {**task, **settings.training, **settings.head, **settings.extraction, **digests}


def _shared_values(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    row = table.iloc[0]
    words = []
    for name in names:
        text = format_value(name, row[name])
        if text != "-" and row[name] != DEFAULTS.get(name):
            words.append(f"{heading(name)} {text}")
    return words


def _n_values(column: pd.Series[Any]) -> int:
    return int(column.nunique(dropna=False))


def _same(column: pd.Series[Any]) -> bool:
    return _n_values(column) == 1


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))
