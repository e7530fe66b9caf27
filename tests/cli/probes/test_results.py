"""`layercache results`: the table of what was probed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from layercache.probing.api import probe
from layercache.probing.training.config import TrainConfig
from layercache_cli.main import main

OPTIONS: dict[str, Any] = {
    "lr": 0.03,
    "weight_decay": 1e-4,
    "dropout": 0.0,
    "train_config": TrainConfig(epochs=5, min_steps=0),
    "device": "cpu",
}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["results", *words, "--cache", str(tmp_path / "root")])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


@pytest.fixture
def probed(planted: Callable[..., Any]) -> None:
    cache = planted()
    probe(cache, head="linear", layers="last", tokens="cls", seeds=2, **OPTIONS)
    probe(cache, head="linear", layers="all", seeds=2, **OPTIONS)


def test_results_shows_the_gain_even_if_a_filter_hides_the_baseline(
    run: Callable[..., Any], probed: None
) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out.count("linear  ") == 4
    assert "model vit_small_made, dataset made_up" in out
    code, out, _ = run(
        "--layers",
        "all",
        "--head",
        "linear",
        "--tokens",
        "cls+ap",
        "--model",
        "vit_small_made",
        "--dataset",
        "made_up",
    )
    rows = [line.split() for line in out.splitlines() if line.startswith("linear  ")]
    assert len(rows) == 2
    assert all(
        any(word.startswith("+") and float(word) > 10 for word in row if word[0] == "+")
        for row in rows
    )


def test_results_over_seeds_shows_mean_and_std(run: Callable[..., Any], probed: None) -> None:
    _, out, _ = run("--over-seeds")
    assert out.count("linear  ") == 2
    assert out.count(" ± ") >= 2 * 2


def test_results_export_writes_the_file_and_names_it(
    run: Callable[..., Any], probed: None, tmp_path: Path
) -> None:
    file = tmp_path / "table.csv"
    _, out, _ = run("--export", str(file), "--layers", "all")
    assert f"written to {file}" in out
    assert pd.read_csv(file)["gain"].notna().all()
    code, _, err = run("--export", str(tmp_path / "table.doc"))
    assert code == 1
    assert "ends in .csv, .parquet, .tex, .md" in err


def test_results_without_probes_names_the_command(run: Callable[..., Any]) -> None:
    code, _, err = run()
    assert code == 1
    assert "train one with `layercache probe --cache /" in err


def test_results_of_a_dataset_that_is_not_there_names_what_is(
    run: Callable[..., Any], probed: None
) -> None:
    code, out, err = run("-d", "made_op")
    assert (code, out) == (1, "")
    assert "expected probes of dataset 'made_op' below this folder, got none" in err
    assert "(there are caches of made_up): train one with `layercache probe" in err
    assert "`layercache probe --dataset made_op --cache /" in err


def test_results_shows_ids_that_head_takes_and_paths(
    run: Callable[..., Any], probed: None, tmp_path: Path
) -> None:
    _, out, _ = run("--layers", "last")
    lines = out.splitlines()
    assert next(line for line in lines if line.startswith("head")).split()[-1] == "probe"
    probe_id = next(line for line in lines if line.startswith("linear")).split()[-1]
    _, out, _ = run("--head", probe_id[:10], "--paths")
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("linear")] == [
        probe_id
    ]
    (path,) = tmp_path.glob(f"root/*/*/*/probes/{probe_id}")
    assert f"{probe_id}: {path}" in out.splitlines()


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("-m", "vit_b16"), "no probe has model 'vit_b16'; expected model vit_small_made"),
        (("--tokens", "ap"), "no probe has tokens 'ap'; expected tokens cls or cls+ap"),
        (
            ("--layers", "last", "--tokens", "cls+ap"),
            "no probe has layers 'last', tokens 'cls+ap'; expected tokens cls",
        ),
        (("--head", "0" * 12), "no probe has head '000000000000'; expected head linear"),
    ],
)
def test_results_of_what_is_not_there_names_what_is(
    run: Callable[..., Any], probed: None, words: tuple[str, ...], fault: str
) -> None:
    code, out, err = run(*words)
    assert (code, out, err) == (1, "", f"error: {fault}\n")


def test_results_shows_chosen_metrics_and_their_intervals(
    run: Callable[..., Any], probed: None, tmp_path: Path
) -> None:
    file = tmp_path / "table.csv"
    words = ("--metrics", "roc_auc,log_loss", "--intervals", "--export", str(file))
    code, out, err = run("--layers", "all", *words)
    assert (code, err) == (0, "")
    assert "lower is better: log loss" in out
    rows = [line for line in out.splitlines() if line.startswith("linear  ")]
    assert [row.count(" to ") for row in rows] == [2, 2]
    table = pd.read_csv(file)
    assert (table["test_roc_auc_ci95_low"] <= table["test_roc_auc"]).all()
    assert (table["test_roc_auc"] <= table["test_roc_auc_ci95_high"]).all()
    _, out, _ = run("--layers", "all", "--metrics", "ece", "--over-seeds")
    assert "ECE" in out
    assert "±" in out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--metrics", "f1_makro"), "unknown metric 'f1_makro': did you mean f1_macro"),
        (("--metrics", "r2"), "metrics: r2 is not a metric of classification; expected balanced"),
        (("--intervals",), "--intervals needs --metrics"),
        (("--intervals", "--metrics", "ece", "--over-seeds"), "--intervals has none over seeds"),
    ],
)
def test_results_with_metrics_that_are_not_there_names_them(
    run: Callable[..., Any], probed: None, words: tuple[str, ...], problem: str
) -> None:
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert problem in err
