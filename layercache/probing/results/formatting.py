"""A table of results as text: for a terminal, markdown, LaTeX; or as a file, csv and parquet too."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercache.errors import MissingExtraError, OptionError

if TYPE_CHECKING:
    import pandas as pd

PERCENT = {
    "val_balanced_accuracy",
    "test_balanced_accuracy",
    "test_top1",
    "test_top5",
    "val_top1",
    "test_map",
    "val_map",
    "gain",
}
HEADINGS = {
    "weight_decay": "weight decay",
    "val_balanced_accuracy": "val bal. acc.",
    "test_balanced_accuracy": "test bal. acc.",
    "test_top1": "top-1",
    "test_top5": "top-5",
    "val_map": "val mAP",
    "test_map": "test mAP",
}
ENDINGS = (".csv", ".parquet", ".tex", ".md")


def cell_text(name: str, value: Any) -> str:
    """A value as people read it: accuracies in percent, a gain with its sign, "-" for nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or value == "":
        return "-"
    if name == "gain":
        return f"{100 * value:+.2f}"
    if name in PERCENT or name.removesuffix("_mean").removesuffix("_std") in PERCENT:
        return f"{100 * value:.2f}"
    if name in ("shots", "seed", "parameters"):
        return f"{int(value):,}" if name == "parameters" else str(int(value))
    if name == "seconds":
        return f"{value:.1f}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def heading(name: str) -> str:
    """The heading of a column: "test bal. acc. mean" of "test_balanced_accuracy_mean"."""
    for ending in ("_mean", "_std"):
        if name.endswith(ending):
            return f"{heading(name.removesuffix(ending))} {ending[1:]}"
    return HEADINGS.get(name, name)


def render(table: pd.DataFrame, form: str) -> str:
    """The table as "text", "markdown" or "latex" (booktabs). Raises OptionError for another form."""
    heads = [heading(name) for name in table.columns]
    body = [
        [cell_text(name, value) for name, value in zip(table.columns, row, strict=True)]
        for row in table.itertuples(index=False, name=None)
    ]
    numeric = [
        name not in ("model", "dataset", "head", "layers", "tokens", "spatial", "setting")
        for name in table.columns
    ]
    if form == "latex":
        return _latex(heads, body, numeric)
    widths = [max(len(line[i]) for line in [heads, *body]) for i in range(len(heads))]

    def line(words: list[str], gap: str) -> str:
        return gap.join(
            w.rjust(n) if right else w.ljust(n)
            for w, n, right in zip(words, widths, numeric, strict=True)
        )

    if form == "text":
        return "\n".join(
            [
                line(heads, "  ").rstrip(),
                "  ".join("-" * n for n in widths),
                *(line(row, "  ").rstrip() for row in body),
            ]
        )
    if form == "markdown":
        rule = "|".join(
            "-" * (n + 1) + (":" if right else "-")
            for n, right in zip(widths, numeric, strict=True)
        )
        return "\n".join(
            [f"| {line(heads, ' | ')} |", f"|{rule}|", *(f"| {line(row, ' | ')} |" for row in body)]
        )
    raise OptionError(f"a table is rendered as text, markdown or latex; came {form!r}")


def _latex(heads: list[str], body: list[list[str]], numeric: list[bool]) -> str:
    def line(words: list[str]) -> str:
        return (
            " & ".join(
                w.replace("%", r"\%").replace("_", r"\_").replace("&", r"\&").replace("#", r"\#")
                for w in words
            )
            + r" \\"
        )

    columns = "".join("r" if right else "l" for right in numeric)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            line(heads),
            r"\midrule",
            *(line(row) for row in body),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def write(table: pd.DataFrame, path: Path) -> None:
    """Writes the table in the format of the file's ending. Raises OptionError for another ending, MissingExtraError for .parquet without pyarrow."""
    if path.suffix not in ENDINGS:
        raise OptionError(
            f"{path}: a table is exported as {', '.join(ENDINGS)}; give the file one of these endings"
        )
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise MissingExtraError("pyarrow", "parquet") from None
        table.to_parquet(path, index=False)
    else:
        path.write_text(render(table, "latex" if path.suffix == ".tex" else "markdown") + "\n")
