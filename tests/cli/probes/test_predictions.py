"""`layercache predictions`: metrics and predictions of a stored probe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from layercache.probing.api import probe
from layercache_cli.main import main
from tests.probing.quick import ONE_CONFIG


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["predictions", *words, "--cache", str(tmp_path / "root")])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


@pytest.fixture
def trained(planted: Callable[..., Any]) -> Any:
    (trained,) = probe(planted(), head="linear", layers="last", tokens="cls", **ONE_CONFIG)
    return trained


def test_predictions_prints_all_metrics_with_intervals(
    run: Callable[..., Any], trained: Any
) -> None:
    code, out, err = run(trained.id[:6])
    assert (code, err) == (0, "")
    score = f"{100 * trained.row['test_balanced_accuracy']:.2f}"
    line = next(line for line in out.splitlines() if line.startswith("balanced accuracy"))
    assert score in line
    assert " to " in line
    assert "top-5 accuracy (%)" in out
    assert "not defined" in out, "top-5 of 3 classes"
    _, out, _ = run(trained.id, "--metrics", "ece")
    assert "expected calibration error" in out
    assert "balanced" not in out


def test_predictions_writes_a_row_per_image(
    run: Callable[..., Any], trained: Any, tmp_path: Path
) -> None:
    file = tmp_path / "predictions.csv"
    code, out, _ = run(str(trained.path), "--out", str(file))
    rows = trained.row["test_rows"]
    assert code == 0
    assert f"written to {file} ({rows} rows)" in out
    assert len(pd.read_csv(file)) == rows


def test_predictions_of_no_probe_or_to_another_format_is_an_error(
    run: Callable[..., Any], trained: Any, tmp_path: Path
) -> None:
    code, _, err = run("0" * 12)
    assert code == 1
    assert "no probe below" in err
    code, _, err = run(str(tmp_path))
    assert code == 1
    assert "expected the folder of a complete probe" in err
    code, _, err = run(trained.id, "--out", str(tmp_path / "p.xlsx"))
    assert code == 1
    assert "ends in .csv or .parquet" in err


def test_predictions_of_a_further_test_set(
    run: Callable[..., Any], planted: Callable[..., Any], tmp_path: Path
) -> None:
    options = {"layers": "last", "tokens": "cls", **ONE_CONFIG}
    (trained,) = probe(planted(), head="linear", test_split=["test", "train"], **options)
    file = tmp_path / "train.csv"
    code, out, err = run(
        trained.id, "--test", "train", "--metrics", "roc_auc,top1_accuracy", "--out", str(file)
    )
    assert (code, err) == (0, "")
    table = pd.read_csv(file)
    assert len(table) == trained.row["test_rows@train"]
    assert f"{100 * table['correct'].mean():.2f}" in out
    assert trained.metrics("roc_auc", test="train") != trained.metrics("roc_auc")
    code, _, err = run(trained.id, "--test", "tain")
    assert code == 1
    assert "did you mean train?" in err
