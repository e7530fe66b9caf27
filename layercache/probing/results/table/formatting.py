"""The results table as text for a terminal, markdown or LaTeX, or as a file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layercache._printable import escape_control, guard_cell
from layercache.errors import MissingExtraError, OptionError
from layercache.probing.metrics import Interval, Metric, column_metric, find_metric

if TYPE_CHECKING:
    import pandas as pd

TEXT_COLUMNS = {
    "probe",
    "path",
    "model",
    "dataset",
    "head",
    "layers",
    "tokens",
    "spatial",
    "gate",
    "config",
}
"""Columns that are aligned to the left."""
HEADINGS = {
    "num_heads": "heads",
    "spatial_share": "spatial share",
    "train_fraction": "train fraction",
    "train_split": "train split",
    "test_split": "test split",
    "val_split": "validation split",
    "further_tests": "further tests",
    "fold_column": "fold column",
    "weight_decay": "weight decay",
    "gain": "gain (pp)",
    "n_params": "parameters",
    "n_configs": "configurations",
    "n_seeds": "seeds",
    "train_seconds": "seconds",
}
STATISTIC = re.compile("_(mean|std)$")
"""End of a column that holds a statistic over seeds."""
INTERVAL = "_ci95"
"""End of a column of text that holds the interval of the column before it."""
SUFFIXES = (".csv", ".parquet", ".tex", ".md")


def format_value(name: str, value: Any) -> str:
    """Return a value as text: accuracies in percent, a gain with its sign, "-" if missing."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, str):
        return value
    if name == "gain":
        return f"{100 * value:+.2f}"
    if (metric := score_metric(name)) is not None:
        return format_score(metric, value)
    if name == "n_params":
        return f"{int(value):,}"
    if name in ("shots", "seed", "folds", "repeats"):
        return str(int(value))
    if name == "train_seconds":
        return f"{value:.1f}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def heading(name: str) -> str:
    """Return the heading of a column: "test balanced accuracy (%)"."""
    if name.endswith(INTERVAL):
        return "95 % interval"
    if (metric := score_metric(name)) is not None:
        part, statistic = name.split("_")[0], STATISTIC.search(name)
        test = STATISTIC.sub("", name).partition("@")[2]
        words = [part, metric.heading, *([test] if test else [])]
        words += [statistic[1]] if statistic else []
        return " ".join(words) + (" (%)" if metric.percent else "")
    return HEADINGS.get(name, name)


def score_metric(column: str) -> Metric | None:
    """Return the metric in a column: test_NAME, val_NAME, or test_NAME_mean over seeds."""
    return column_metric(STATISTIC.sub("", column))


def format_score(metric: Metric, value: float) -> str:
    """Return a score as text, in percent if the metric is."""
    if metric.percent:
        return f"{100 * value:.2f}"
    return f"{value:.4g}" if metric.has_unit else f"{value:.4f}"


def format_scores(values: Mapping[str, float], intervals: Mapping[str, Interval]) -> str:
    """Return metrics and their 95 % intervals as text, a line each."""
    rows = [("test metric", "value", "95 % interval")]
    for name, value in values.items():
        metric = find_metric(name)
        title = f"{metric.title} (%)" if metric.percent else metric.title
        if math.isnan(value):
            rows.append((title, "not defined", ""))
            continue
        number, low, high = (format_score(metric, v) for v in (value, *intervals[name]))
        rows.append((title, number, f"{low} to {high}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_pad(list(row), widths, [False, True, True]) for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def format_table(table: pd.DataFrame, form: str) -> str:
    """Return the table as "text", "markdown" or "latex" (booktabs).

    The headings of a text do not repeat that accuracies are in percent.

    Raises:
        OptionError: Another form is given.
    """
    if form not in ("text", "markdown", "latex"):
        raise OptionError(f"form: expected text, markdown or latex, got {form!r}")
    shown = table.astype(object).copy()
    for name in table.columns:
        shown[name] = [escape_control(format_value(name, value)) for value in table[name]]
    headings = [heading(name) for name in table.columns]
    if form == "text":
        headings = [text.removesuffix(" (%)") for text in headings]
    right = [name not in TEXT_COLUMNS for name in table.columns]
    if form == "latex":
        column_format = "".join("r" if r else "l" for r in right)
        shown.columns = headings
        return shown.to_latex(index=False, escape=True, column_format=column_format).strip()
    rows = shown.to_numpy().tolist()
    if form == "markdown":
        rows = [[escape_markdown(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        rule = [f"{'-' * (n - 1)}{':' if r else '-'}" for n, r in zip(widths, right, strict=True)]
        lines = [headings, rule, *rows]
        return "\n".join(f"| {' | '.join(_pad(line, widths, right))} |" for line in lines)
    top = [list(line) for line in zip(*map(_three_lines, headings), strict=True)]
    while not any(top[0]):
        del top[0]
    widths = [max(map(len, column)) for column in zip(*top, *rows, strict=True)]
    lines = [*top, ["-" * n for n in widths], *rows]
    return "\n".join("  ".join(_pad(line, widths, right)).rstrip() for line in lines)


def escape_markdown(cell: str) -> str:
    """Return text as a cell of a Markdown table, on one line and without bars of its own."""
    return escape_control(cell).replace("\\", "\\\\").replace("|", "\\|")


def _pad(words: list[str], widths: list[int], right: list[bool]) -> list[str]:
    return [
        word.rjust(width) if r else word.ljust(width)
        for word, width, r in zip(words, widths, right, strict=True)
    ]


def _three_lines(text: str) -> tuple[str, str, str]:
    """Return a heading on three lines that are as short as possible, the last filled first."""
    words = text.split()
    splits = [
        (" ".join(words[:i]), " ".join(words[i:j]), " ".join(words[j:]))
        for j in range(len(words))
        for i in range(j + 1)
    ]
    return min(splits, key=lambda lines: (max(map(len, lines)), sum(map(bool, lines))))


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write the table in the format of the file's suffix.

    Raises:
        OptionError: The suffix is another one.
        MissingExtraError: .parquet without pyarrow.
    """
    if path.suffix not in SUFFIXES:
        raise OptionError(
            f"{path}: expected a file that ends in {', '.join(SUFFIXES)}, got {path.suffix!r}"
        )
    if path.suffix == ".csv":
        write_csv(table, path)
    elif path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise MissingExtraError("pyarrow", "parquet") from None
        table.to_parquet(path, index=False)
    else:
        form = "latex" if path.suffix == ".tex" else "markdown"
        path.write_text(format_table(table, form) + "\n")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write the table as CSV; text that a spreadsheet would take for a formula is guarded."""
    guarded = table.copy()
    for position, dtype in enumerate(table.dtypes):
        if dtype.kind not in "biuf":
            cells = [guard_cell(v) if isinstance(v, str) else v for v in table.iloc[:, position]]
            guarded.isetitem(position, np.array(cells, dtype=object))
    guarded.columns = [guard_cell(str(name)) for name in table.columns]
    guarded.to_csv(path, index=False)
