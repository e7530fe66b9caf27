from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from layercache.errors import CacheCorruptError, MissingExtraError, OptionError, ProbeNotFoundError
from layercache.probing.api import probe
from layercache.probing.results.formatting import render
from layercache.probing.results.probe_store import Probe, read_probe
from layercache.probing.results.table import COLUMNS, Results, read_results

ROW = {
    "probe": "0", "model": "m", "dataset": "d", "head": "linear", "layers": "last", "tokens": "cls", "spatial": "", "n_tokens": 1, "heads": 0,
    "embedding": False, "seed": 0, "shots": None, "fraction": None, "lr": 0.1, "weight_decay": 1e-4, "dropout": 0.0, "setting": "",
    "val_balanced_accuracy": 0.5, "test_balanced_accuracy": 0.5, "test_top1": 0.5, "test_top5": 0.9, "test_map": None, "test_ci_low": 0.4,
    "test_ci_high": 0.6, "parameters": 1234, "settings": 21, "seconds": 1.25, "fingerprint": "f", "weights": "w", "data": "x",
    "protocol": "p", "grid": "g", "precision": "fp32", "epochs": 40, "tap": "norm2",
}  # fmt: skip


def made(**changes: Any) -> Probe:
    row = {**ROW, **changes}
    return Probe(path=Path(f"/nowhere/probes/{row['probe']}"), spec={}, row=row, configs=())


def test_the_table_has_one_row_for_each_probe_and_every_column() -> None:
    table = Results([made(probe="1"), made(probe="2", shots=5)]).table
    assert tuple(table.columns) == COLUMNS
    assert table["path"].tolist() == ["/nowhere/probes/1", "/nowhere/probes/2"]
    assert table["test_map"].isna().all()


def test_seeds_are_averaged_and_nothing_else() -> None:
    scores = [0.5, 0.6, 0.8]
    probes = [made(probe=str(s), seed=s, test_balanced_accuracy=v) for s, v in enumerate(scores)]
    table = Results(
        [
            *probes,
            made(probe="9", layers="all", test_balanced_accuracy=0.9),
            made(probe="8", shots=1),
            made(probe="7", seed=7, grid="h"),
        ]
    ).over_seeds()
    assert table["seeds"].tolist() == [3, 1, 1, 1], "another grid is another experiment"
    assert table["test_balanced_accuracy_mean"][0] == pytest.approx(np.mean(scores))
    assert table["test_balanced_accuracy_std"][0] == pytest.approx(np.std(scores, ddof=1))
    assert np.isnan(table["test_balanced_accuracy_std"][1])


def test_the_gain_is_over_the_linear_head_on_the_last_class_token_of_the_same_model_data_and_seed() -> (
    None
):
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
        made(probe="d", head="attentive", data="y", test_balanced_accuracy=0.9),
        made(probe="e", head="attentive", weights="v", test_balanced_accuracy=0.9),
        made(probe="f", head="attentive", shots=5, test_balanced_accuracy=0.9),
    ]
    table = Results(probes).with_gain()
    assert table["baseline"].tolist()[:4] == ["base0", "base1", "base0", "base1"]
    np.testing.assert_allclose(table["gain"][:4], [0, 0, 0.4, 0.3])
    assert table["gain"][4:].isna().all()
    alone = Results(probes[2:3])
    assert alone.with_gain()["gain"].isna().all()
    np.testing.assert_allclose(alone.with_gain(among=Results(probes))["gain"], [0.4])


def test_of_several_baselines_the_one_of_the_same_cache_and_protocol_counts() -> None:
    probes = [
        made(probe="large", settings=99, protocol="q", test_balanced_accuracy=0.1),
        made(probe="same", test_balanced_accuracy=0.5),
        made(probe="elsewhere", fingerprint="g", test_balanced_accuracy=0.2),
        made(probe="x", head="attentive", test_balanced_accuracy=0.9),
    ]
    assert Results(probes).with_gain()["baseline"][3] == "same"


def test_filters_name_columns() -> None:
    results = Results([made(probe="1"), made(probe="2", head="attentive")])
    assert [p.id for p in results.only(head="attentive")] == ["2"]
    assert len(results.only(model=None)) == 2
    assert not len(results.only(model="another"))
    with pytest.raises(OptionError, match="colour: no such column"):
        results.only(colour="red")


def test_the_printed_table() -> None:
    text = Results(
        [made(probe="1"), made(probe="2", head="attentive", seed=1, test_balanced_accuracy=0.75)]
    ).to_text()
    head, rule, first, second = text.splitlines()
    assert head.split("  ")[0] == "model"
    assert [
        w
        for w in ("seed", "lr", "weight decay", "test bal. acc.", "parameters", "seconds")
        if w not in head
    ] == []
    assert set(rule) == {"-", " "}
    assert "50.00" in first
    assert "1,234" in first
    assert "75.00" in second
    assert "seed" not in Results([made()]).to_text(), (
        "a column that is the same everywhere is left out"
    )
    assert Results([]).to_text() == "no probes match"
    alike = Results([made(probe="1"), made(probe="2", epochs=5, heads=3)]).to_text().splitlines()[0]
    assert "heads" in alike, "rows that would look alike show what differs"
    assert "epochs" not in alike, "and no more than that"


def test_markdown_and_latex_carry_the_same_figures() -> None:
    table = pd.DataFrame(
        {
            "head": ["linear_a"],
            "test_balanced_accuracy": [0.12345],
            "gain": [-0.01],
            "lr": [float("nan")],
        }
    )
    assert render(table, "markdown").splitlines()[2] == "| linear_a |          12.35 | -1.00 |  - |"
    latex = render(table, "latex")
    assert r"linear\_a & 12.35 & -1.00 & - \\" in latex
    assert latex.startswith(r"\begin{tabular}{lrrr}")
    with pytest.raises(OptionError, match="text, markdown or latex; came 'html'"):
        render(table, "html")


def test_exports_come_back(tmp_path: Path) -> None:
    results = Results(
        [made(probe="1"), made(probe="2", head="attentive", test_balanced_accuracy=0.75)]
    )
    back = pd.read_csv(results.export(tmp_path / "t.csv"))
    np.testing.assert_allclose(back["gain"], [0, 0.25])
    assert back["head"].tolist() == ["linear", "attentive"]
    assert results.export(tmp_path / "t.md").read_text().startswith("| model")
    assert "+25.00" in results.export(tmp_path / "t.tex").read_text()
    with pytest.raises(OptionError, match=r"exported as .csv, .parquet, .tex, .md"):
        results.export(tmp_path / "t.xlsx")


def test_parquet_comes_back_or_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = Results([made()])
    with monkeypatch.context() as patched:
        patched.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(
            MissingExtraError,
            match=r"needs pyarrow, which is not installed: pip install 'layercache\[parquet\]'",
        ):
            results.export(tmp_path / "t.parquet")
    pytest.importorskip("pyarrow")
    assert pd.read_parquet(results.export(tmp_path / "t.parquet"))["lr"].tolist() == [0.1]


def test_probes_are_found_below_a_root_and_beside_a_cache(
    planted: Callable[..., Any], tmp_path: Path
) -> None:
    one, two = planted(), planted(model="another")
    options = {"lr": 0.01, "weight_decay": 0.0, "device": "cpu", "epochs": 1}
    with pytest.raises(
        ProbeNotFoundError, match=r"no probes below .*: make one with `layercache probe`"
    ):
        read_results(tmp_path / "root")
    first, second = (*probe(one, head="knn", **options), *probe(two, head="knn", **options))
    assert {p.id for p in read_results(tmp_path / "root")} == {first.id, second.id}
    assert [p.id for p in read_results(one)] == [first.id]
    (first.path / "probe.json").unlink()
    assert [p.id for p in read_results(tmp_path / "root")] == [second.id], (
        "a probe without its record is not there"
    )


def test_broken_records_are_named(planted: Callable[..., Any]) -> None:
    (found,) = probe(planted(), head="knn", device="cpu")
    record = found.path / "probe.json"
    text = record.read_text()
    record.write_text(text[:100])
    with pytest.raises(
        CacheCorruptError,
        match=r"probe.json is not valid JSON .*: remove the folder and probe again",
    ):
        read_probe(found.path)
    record.write_text(json.dumps({**json.loads(text), "schema": 99}))
    with pytest.raises(CacheCorruptError, match="has schema 99, this version reads 2"):
        read_probe(found.path)
    (found.path / "predictions.npz").write_bytes(b"PK nonsense")
    with pytest.raises(CacheCorruptError, match=r"predictions.npz cannot be read"):
        found.predictions()


def test_the_summary_names_the_interval_and_the_folder() -> None:
    said = Results(
        [made(probe="1"), made(probe="2", head="attentive", test_balanced_accuracy=0.75)]
    ).summary()
    assert "highest test balanced accuracy 75.00: attentive" in said
    assert "95 % bootstrap interval over test images 40.00 to 60.00" in said
    assert said.endswith("kept in /nowhere/probes")
