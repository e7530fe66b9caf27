from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from layercache.errors import MissingExtraError, OptionError, ProbeNotFoundError
from layercache.probing.api import probe
from layercache.probing.results.reading import read_results
from layercache.probing.results.table.formatting import format_table
from layercache.probing.results.table.table import COLUMNS, Results
from layercache.probing.training.config import TrainConfig
from tests.probing.probe_specs import grid
from tests.probing.results.made import made


def test_table_has_one_row_per_probe_and_every_column() -> None:
    table = Results([made("1"), made("2", shots=5)]).table
    assert tuple(table.columns) == COLUMNS
    assert table["path"].tolist() == ["/nowhere/probes/1", "/nowhere/probes/2"]
    assert table["test_mean_average_precision"].isna().all()


def test_results_of_a_probe_given_twice_has_it_once() -> None:
    results = Results([made("1"), made("2", seed=1), made("1")])
    assert [probe.id for probe in results] == ["1", "2"]
    assert len(results.table) == 2


def test_over_seeds_averages_probes_that_differ_in_the_seed_only() -> None:
    scores = [0.5, 0.6, 0.8]
    probes = [made(str(s), seed=s, test_balanced_accuracy=v) for s, v in enumerate(scores)]
    others = [
        made("9", layers="6,12", test_balanced_accuracy=0.9),
        made("8", shots=1),
        made("7", seed=7, spec={"grid": grid((0.2, 1e-4, 0.0))}),
        made("6", seed=7, test_split="val"),
        made("5", seed=7, spec={"cache": {"rows": 60}}),
        made("4", seed=7, spec={"train_config": TrainConfig(epochs=1)}),
    ]
    table = Results([*probes, *others]).over_seeds()
    assert table["n_seeds"].tolist() == [3, 1, 1, 1, 1, 1, 1]
    assert table["test_balanced_accuracy_mean"][0] == pytest.approx(np.mean(scores))
    assert table["test_balanced_accuracy_std"][0] == pytest.approx(np.std(scores, ddof=1))
    assert np.isnan(table["test_balanced_accuracy_std"][1])
    assert table["experiment"].is_unique


def test_over_seeds_counts_a_probe_that_is_stored_twice_once() -> None:
    # the same tokens in a second cache, which stores fewer layers
    copy = made("9", seed=1, spec={"cache": {"layers": (12,)}}, test_balanced_accuracy=0.6)
    probes = [made(str(s), seed=s, test_balanced_accuracy=v) for s, v in enumerate((0.5, 0.6, 0.8))]
    results = Results([*probes, copy])
    assert results.over_seeds()["n_seeds"].tolist() == [3]
    std = results.over_seeds()["test_balanced_accuracy_std"][0]
    assert std == pytest.approx(np.std([0.5, 0.6, 0.8], ddof=1))
    assert "1 probe stored twice, counted once" in results.to_text(over_seeds=True)


def test_to_text_names_the_test_split_where_it_is_not_test() -> None:
    probes = [made(s, test_split=s) for s in ("train", "val", "test")]
    for over_seeds in (False, True):
        text = Results(probes).to_text(over_seeds=over_seeds)
        heading = text[: text.index("---")]
        assert "split" in heading
        assert all(f"cls     {s:>5}" in text for s in ("train", "val", "test"))
    assert "test split val" in Results(probes[1:2]).to_text()
    assert "split" not in Results(probes[2:]).to_text()
    assert "tested on split val" in Results(probes[1:2]).summary()


def test_filter_by_a_relative_folder_of_a_model_finds_its_absolute_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = Results([made("1", model=f"local-dir:{tmp_path}/uni"), made("2")])
    assert [p.id for p in results.filter(model="local-dir:./uni")] == ["1"]


def test_filter_by_columns_keeps_matching_probes() -> None:
    results = Results([made("1"), made("2", head="attentive")])
    assert [p.id for p in results.filter(head="attentive")] == ["2"]
    assert len(results.filter(model=None)) == 2
    assert not len(results.filter(model="another"))
    on_val = Results([made("1"), made("2", test_split="val")]).filter(test_split="val")
    assert [p.id for p in on_val] == ["2"]
    with pytest.raises(OptionError, match=r"expected names of columns .* got colour"):
        results.filter(colour="red")


def test_to_text_shows_what_differs_and_scores_in_percent() -> None:
    text = Results(
        [made("1"), made("2", head="attentive", seed=1, test_balanced_accuracy=0.75)]
    ).to_text()
    _, middle, bottom, rule, first, second, _, shared, units = text.splitlines()
    assert bottom.split()[:4] == ["head", "layers", "tokens", "seed"]
    assert middle.split() == ["balanced", "balanced", "test"]
    assert set(rule) == {"-", " "}
    assert "50.00" in first
    assert "75.00" in second
    assert shared == (
        "all rows: model m, dataset d, lr 0.1, weight decay 0.0001, dropout 0, parameters 1,234"
    )
    assert units == "scores in percent"
    assert [line.split()[-1] for line in (bottom, first, second)] == ["probe", "1", "2"]
    assert "1: /nowhere/probes/1" in Results([made("1")]).to_text(paths=True).splitlines()
    alone = Results([made(shots=5)]).to_text()
    assert "with model m, dataset d, shots 5, seed 0" in alone, "what is not usual is named"
    assert Results([]).to_text() == "no probes match"


def test_format_table_as_markdown_and_latex_holds_the_same_values() -> None:
    table = pd.DataFrame(
        {
            "head": ["linear_a"],
            "test_balanced_accuracy": [0.12345],
            "gain": [-0.01],
            "lr": [float("nan")],
        }
    )
    heading, rule, row = format_table(table, "markdown").splitlines()
    assert heading == "| head     | test balanced accuracy (%) | gain (pp) | lr |"
    assert rule == "| -------- | -------------------------: | --------: | -: |"
    assert row == "| linear_a |                      12.35 |     -1.00 |  - |"
    latex = format_table(table, "latex")
    assert r"head & test balanced accuracy (\%) & gain (pp) & lr \\" in latex
    assert r"linear\_a & 12.35 & -1.00 & - \\" in latex
    assert latex.startswith(r"\begin{tabular}{lrrr}")
    with pytest.raises(OptionError, match="expected text, markdown or latex, got 'html'"):
        format_table(table, "html")


def test_export_to_csv_markdown_and_latex_holds_the_table(tmp_path: Path) -> None:
    results = Results([made("1"), made("2", head="attentive", test_balanced_accuracy=0.75)])
    back = pd.read_csv(results.export(tmp_path / "t.csv"))
    np.testing.assert_allclose(back["gain"], [0, 0.25])
    assert back["head"].tolist() == ["linear", "attentive"]
    assert results.export(tmp_path / "t.md").read_text().startswith("| model")
    assert "+25.00" in results.export(tmp_path / "t.tex").read_text()
    with pytest.raises(OptionError, match=r"ends in .csv, .parquet, .tex, .md, got '.xlsx'"):
        results.export(tmp_path / "t.xlsx")


def test_export_to_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = Results([made()])
    with monkeypatch.context() as patched:
        patched.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(
            MissingExtraError,
            match=r"needs pyarrow, which is not installed: pip install -e '\.\[parquet\]'",
        ):
            results.export(tmp_path / "t.parquet")
    pytest.importorskip("pyarrow")
    assert pd.read_parquet(results.export(tmp_path / "t.parquet"))["lr"].tolist() == [0.1]


def test_read_results_finds_probes_below_a_root_and_of_a_cache(
    planted: Callable[..., Any], tmp_path: Path
) -> None:
    one, two = planted(), planted(model="another")
    options = {"lr": 0.01, "weight_decay": 0.0, "device": "cpu", "epochs": 1}
    with pytest.raises(
        ProbeNotFoundError,
        match=r"expected probes below .*, got none: train one with `layercache probe --cache ",
    ):
        read_results(tmp_path / "root")
    first, second = (*probe(one, head="knn", **options), *probe(two, head="knn", **options))
    assert {p.id for p in read_results(tmp_path / "root")} == {first.id, second.id}
    assert [p.id for p in read_results(one)] == [first.id]
    (first.path / "probe.json").unlink()
    assert [p.id for p in read_results(tmp_path / "root")] == [second.id], (
        "a probe without its record is not there"
    )


def test_summary_gives_the_best_probe_its_interval_and_the_folder() -> None:
    said = Results([made("1"), made("2", head="attentive", test_balanced_accuracy=0.75)]).summary()
    assert "highest test balanced accuracy 75.00 %: attentive" in said
    assert "95 % bootstrap interval over test images 40.00 to 60.00 %" in said
    assert said.endswith("stored in /nowhere/probes")
