"""The results table as text for a terminal, markdown or LaTeX, or as a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercache._printable import escape_control, guard_cell
from layercache.errors import MissingExtraError, OptionError

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
    "config",
}
"""Columns that are aligned to the left."""
ACCURACIES = {
    "val_balanced_accuracy": "val balanced accuracy",
    "test_balanced_accuracy": "test balanced accuracy",
    "val_top1_accuracy": "val top-1",
    "test_top1_accuracy": "test top-1",
    "test_top5_accuracy": "test top-5",
    "val_mean_average_precision": "val mAP",
    "test_mean_average_precision": "test mAP",
}
"""Columns that are shown in percent, and their headings."""
HEADINGS = {
    "num_heads": "heads",
    "train_fraction": "train fraction",
    "train_split": "train split",
    "test_split": "test split",
    "weight_decay": "weight decay",
    "gain": "gain (pp)",
    "n_params": "parameters",
    "n_configs": "configurations",
    "n_seeds": "seeds",
    "train_seconds": "seconds",
}
SUFFIXES = (".csv", ".parquet", ".tex", ".md")


def format_value(name: str, value: Any) -> str:
    """Return a value as text: accuracies in percent, a gain with its sign, "-" if missing."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, str):
        return value
    if name == "gain":
        return f"{100 * value:+.2f}"
    if name.removesuffix("_mean").removesuffix("_std") in ACCURACIES:
        return f"{100 * value:.2f}"
    if name == "n_params":
        return f"{int(value):,}"
    if name in ("shots", "seed"):
        return str(int(value))
    if name == "train_seconds":
        return f"{value:.1f}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def heading(name: str) -> str:
    """Return the heading of a column: "test balanced accuracy (%)"."""
    if name in ACCURACIES:
        return f"{ACCURACIES[name]} (%)"
    for statistic in ("mean", "std"):
        if name.endswith(f"_{statistic}"):
            return f"{ACCURACIES[name.removesuffix(f'_{statistic}')]} {statistic} (%)"
    return HEADINGS.get(name, name)


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
    guarded = table.astype(object).map(
        lambda value: guard_cell(value) if isinstance(value, str) else value
    )
    guarded.columns = [guard_cell(str(name)) for name in table.columns]
    guarded.to_csv(path, index=False)
