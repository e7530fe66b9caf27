"""`layercache scan`: one read, a table, a file and a plot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from layercache_cli.main import main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([*words, "--cache", str(tmp_path / "root")])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


def test_scan_prints_curves_and_ranking_and_writes_files(
    run: Callable[..., Any], planted: Callable[..., Any], tmp_path: Path
) -> None:
    planted()
    table, plot = tmp_path / "scan.csv", tmp_path / "scan.svg"
    code, out, _ = run("scan", "--head", "ridge", "--export", str(table), "--plot", str(plot))
    assert code == 0
    assert "test balanced accuracy of single tokens" in out
    assert "by the validation score" in out
    assert set(pd.read_csv(table)["head"]) == {"ridge"}
    assert plot.exists()


def test_scan_without_subsets_and_test(run: Callable[..., Any], planted: Any) -> None:
    planted()
    code, out, _ = run("scan", "--subsets", "none", "--test", "none", "--layers", "2")
    assert code == 0
    assert "val balanced accuracy of single tokens" in out
    assert "cls+ap" not in out


def test_scan_of_an_unknown_head_is_an_error(run: Callable[..., Any], planted: Any) -> None:
    planted()
    code, _, err = run("scan", "--head", "rigde")
    assert code == 1
    assert "did you mean ridge" in err
