from __future__ import annotations

import csv
import re
from pathlib import Path

import pandas as pd
import pytest

from layercache.probing.results.table.formatting import format_table, write_csv, write_table

SPECIAL = "a\\b ^ ~ {c} $d$ & # % _ | e"


def _table(*names: str) -> pd.DataFrame:
    return pd.DataFrame({"model": names, "n_params": range(len(names))})


def test_format_table_as_latex_escapes_every_special_character() -> None:
    text = format_table(_table(SPECIAL, "x\\\\"), "latex")
    plain = re.sub(r"\\(?:textbackslash|textasciicircum|textasciitilde|space)(?:\s|\b)", "", text)
    cells = plain.split("\\midrule\n")[1].split("\\bottomrule")[0]
    for row in cells.strip().removesuffix("\\\\").split("\\\\\n"):
        name = row.rpartition("&")[0]
        assert not re.search(r"(?<!\\)[&#%$_{}~^]", name), name
        assert not re.search(r"\\[^&#%$_{}]", name), name
    assert all(
        command in text for command in ("\\textbackslash", "\\textasciicircum", "\\textasciitilde")
    )


@pytest.mark.parametrize("form", ["text", "markdown", "latex"])
def test_format_table_with_control_characters_keeps_one_line_for_each_row(form: str) -> None:
    n_lines = format_table(_table("a", "b"), form).count("\n")
    text = format_table(_table("a\x1b[31m\r\n  | b |\u2028", "b"), form)
    assert text.count("\n") == n_lines
    assert len(text.splitlines()) == n_lines + 1
    assert text.replace("\n", "").isprintable()


def test_format_table_as_markdown_escapes_bars() -> None:
    text = format_table(_table("a|b", "c\\|d"), "markdown")
    for line in text.split("\n"):
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3
    assert "a\\|b" in text
    assert "c\\\\\\|d" in text


def test_write_table_as_csv_guards_formulas_and_keeps_numbers(tmp_path: Path) -> None:
    names = ["=cmd|' /C calc'!A0", "+a", "-b", "@c", "-1.5", "vit_b", 'q"u,o\nte']
    table = pd.DataFrame(
        {"=name": names, "gain": [-0.5, 1.0, float("nan"), -2e-5, 0.0, 1.0, 3.0], "n": range(7)}
    )
    table["none"] = None
    write_table(table, tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["'=name", "gain", "n", "none"]
    assert [row[0] for row in rows[1:]] == [f"'{name}" for name in names[:4]] + names[4:]
    read = pd.read_csv(tmp_path / "a.csv")
    assert read["gain"].dtype == float
    pd.testing.assert_series_equal(read["gain"], table["gain"])
    assert read["n"].dtype == int


def test_write_csv_of_plain_cells_writes_what_pandas_does(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"a": ["x", None], "b": [1, 2], "c": [0.1 + 0.2, float("nan")], "d": [True, False]}
    )
    write_csv(table, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == table.to_csv(index=False)
