from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from layercache.errors import MissingExtraError, OptionError, ProbeNotFoundError
from layercache.probing.api import probe
from layercache.probing.results.formatting import format_table
from layercache.probing.results.probe_store import Probe
from layercache.probing.results.table import COLUMNS, Results, read_results

ROW = {
    "probe": "0", "model": "m", "dataset": "d", "head": "linear", "layers": "last",
    "tokens": "cls", "spatial": "", "n_tokens": 1, "num_heads": 0, "embedding": False, "seed": 0,
    "shots": None, "train_fraction": None, "lr": 0.1, "weight_decay": 1e-4, "dropout": 0.0,
    "config": "", "val_balanced_accuracy": 0.5, "test_balanced_accuracy": 0.5,
    "test_top1_accuracy": 0.5, "test_top5_accuracy": 0.9, "test_mean_average_precision": None,
    "test_ci95_low": 0.4, "test_ci95_high": 0.6, "n_params": 1234, "n_configs": 21,
    "train_seconds": 1.25, "precision": "fp32", "epochs": 40, "tap": "norm2", "fingerprint": "f",
    "weights_digest": "w", "dataset_digest": "x", "train_config_digest": "p", "grid_digest": "g",
}  # fmt: skip


def made(**changes: Any) -> Probe:
    row = {**ROW, **changes}
    return Probe(path=Path(f"/nowhere/probes/{row['probe']}"), spec={}, row=row, configs=())


def test_table_has_one_row_per_probe_and_every_column() -> None:
    table = Results([made(probe="1"), made(probe="2", shots=5)]).table
    assert tuple(table.columns) == COLUMNS
    assert table["path"].tolist() == ["/nowhere/probes/1", "/nowhere/probes/2"]
    assert table["test_mean_average_precision"].isna().all()


def test_over_seeds_averages_probes_that_differ_in_the_seed_only() -> None:
    scores = [0.5, 0.6, 0.8]
    probes = [made(probe=str(s), seed=s, test_balanced_accuracy=v) for s, v in enumerate(scores)]
    table = Results(
        [
            *probes,
            made(probe="9", layers="all", test_balanced_accuracy=0.9),
            made(probe="8", shots=1),
            made(probe="7", seed=7, grid_digest="h"),
        ]
    ).over_seeds()
    assert table["n_seeds"].tolist() == [3, 1, 1, 1], "another grid is another experiment"
    assert table["test_balanced_accuracy_mean"][0] == pytest.approx(np.mean(scores))
    assert table["test_balanced_accuracy_std"][0] == pytest.approx(np.std(scores, ddof=1))
    assert np.isnan(table["test_balanced_accuracy_std"][1])


def test_gain_is_over_the_linear_head_of_the_same_model_dataset_and_seed() -> None:
    probes = [
        made(probe="base0", test_balanced_accuracy=0.5),
        made(probe="base1", seed=1, test_balanced_accuracy=0.6),
        made(
            probe="a", head="attentive", layers="all", tokens="cls+ap", test_balanced_accuracy=0.9
        ),
        made(
            probe="b",
            head="attentive",
            layers="all",
            tokens="cls+ap",
            seed=1,
            test_balanced_accuracy=0.9,
        ),
        made(
            probe="c",
            head="attentive",
            layers="all",
            tokens="cls+ap",
            seed=2,
            test_balanced_accuracy=0.9,
        ),
        made(probe="d", head="attentive", dataset_digest="y", test_balanced_accuracy=0.9),
        made(probe="e", head="attentive", weights_digest="v", test_balanced_accuracy=0.9),
        made(probe="f", head="attentive", shots=5, test_balanced_accuracy=0.9),
    ]
    table = Results(probes).with_gain()
    assert table["baseline"].tolist()[:4] == ["base0", "base1", "base0", "base1"]
    np.testing.assert_allclose(table["gain"][:4], [0, 0, 0.4, 0.3])
    assert table["gain"][4:].isna().all()
    alone = Results(probes[2:3])
    assert alone.with_gain()["gain"].isna().all()
    np.testing.assert_allclose(alone.with_gain(among=Results(probes))["gain"], [0.4])


def test_gain_prefers_the_baseline_of_the_same_cache_and_training() -> None:
    probes = [
        made(probe="large", n_configs=99, train_config_digest="q", test_balanced_accuracy=0.1),
        made(probe="same", test_balanced_accuracy=0.5),
        made(probe="elsewhere", fingerprint="g", test_balanced_accuracy=0.2),
        made(probe="x", head="attentive", test_balanced_accuracy=0.9),
    ]
    assert Results(probes).with_gain()["baseline"][3] == "same"


def test_filter_by_columns_keeps_matching_probes() -> None:
    results = Results([made(probe="1"), made(probe="2", head="attentive")])
    assert [p.id for p in results.filter(head="attentive")] == ["2"]
    assert len(results.filter(model=None)) == 2
    assert not len(results.filter(model="another"))
    with pytest.raises(OptionError, match=r"expected names of columns .* got colour"):
        results.filter(colour="red")


def test_to_text_shows_what_differs_and_scores_in_percent() -> None:
    text = Results(
        [made(probe="1"), made(probe="2", head="attentive", seed=1, test_balanced_accuracy=0.75)]
    ).to_text()
    top, bottom, rule, first, second = text.splitlines()
    assert bottom.split("  ")[0] == "model"
    assert "test balanced" in top
    assert "accuracy (%)" in bottom
    assert [w for w in ("seed", "lr", "decay", "parameters", "seconds") if w not in bottom] == []
    assert set(rule) == {"-", " "}
    assert "50.00" in first
    assert "1,234" in first
    assert "75.00" in second
    assert (bottom.split()[-1], first.split()[-1], second.split()[-1]) == ("probe", "1", "2")
    with_paths = Results([made(probe="1")]).to_text(paths=True)
    assert with_paths.splitlines()[-1].endswith("  1      /nowhere/probes/1")
    assert "seed" not in Results([made()]).to_text(), (
        "a column that is the same everywhere is left out"
    )
    assert Results([]).to_text() == "no probes match"
    alike = (
        Results([made(probe="1"), made(probe="2", epochs=5, num_heads=3)]).to_text().splitlines()[1]
    )
    assert "heads" in alike, "rows that would look alike show what differs"
    assert "epochs" not in alike, "and no more than that"


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
    results = Results(
        [made(probe="1"), made(probe="2", head="attentive", test_balanced_accuracy=0.75)]
    )
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
        match=r"expected probes below .*, got none: train one with `layercache probe`",
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
    said = Results(
        [made(probe="1"), made(probe="2", head="attentive", test_balanced_accuracy=0.75)]
    ).summary()
    assert "highest test balanced accuracy 75.00 %: attentive" in said
    assert "95 % bootstrap interval over test images 40.00 to 60.00 %" in said
    assert said.endswith("stored in /nowhere/probes")
