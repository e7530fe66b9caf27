"""Probes of annotation columns, end to end."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import r2_score

from layercache.cache import Cache, open_cache
from layercache.cache.annotate import annotate
from layercache.errors import OptionError, ProbeError
from layercache.probing.api import probe
from layercache.probing.plan import plan_probes
from layercache.probing.request import ProbeRequest
from layercache.probing.results.reading import read_results
from layercache.probing.training.config import TrainConfig
from layercache.testing import write_planted_cache
from tests.logs import logged

QUICK: dict[str, Any] = {
    "lr": 0.1,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "train_config": TrainConfig(epochs=40, min_steps=0, min_batches=3, noise=None),
    "device": "cpu",
    "layers": "2",
    "tokens": "cls",
}
LAYER = 2


def cls_tokens(cache: Cache, split: str, *, layer: int = LAYER) -> np.ndarray[Any, Any]:
    opened = cache.split(split)
    x = opened.read([(layer, "cls")], out=np.empty((1, opened.rows, cache.spec.width), np.float16))
    return torch.nn.functional.normalize(torch.from_numpy(x[0]).double(), dim=-1).numpy()


def annotated(root: Path, *, unit: float = 1.0, n_missing: int = 0, **more: Any) -> Cache:
    """Annotate a cache with a float column that layer 2's class token determines linearly."""
    cache = write_planted_cache(root=root, strength=0.0)
    rng = np.random.default_rng(5)
    weight = rng.normal(size=cache.spec.width)
    frames = []
    for split in ("train", "test"):
        opened = cache.split(split)
        values = unit * (cls_tokens(cache, split) @ weight + 3)
        values[:n_missing] = np.nan
        columns = {name: make(opened.rows) for name, make in more.items()}
        frames.append(pd.DataFrame({"id": opened.ids, "split": split, "size": values, **columns}))
    annotate(cache, pd.concat(frames, ignore_index=True))
    return open_cache(cache.path)


@pytest.mark.parametrize(("head", "least"), [("linear", 0.9), ("attentive", 0.8), ("ridge", 0.99)])
def test_probe_predicts_a_planted_float_from_its_layer_and_not_from_another(
    tmp_path: Path, head: str, least: float
) -> None:
    cache = annotated(tmp_path)
    right, wrong = (
        probe(cache, target="size", head=head, **{**QUICK, "layers": layers}).probes[0]
        for layers in ("2", "1")
    )
    assert right.row["test_r2"] > least
    assert right.row["test_ci95_low"] < right.row["test_r2"] < right.row["test_ci95_high"]
    assert right.row["test_mae"] < 0.5 * wrong.row["test_mae"]
    assert wrong.row["test_r2"] < 0.2
    stored = right.predictions()
    assert (stored.targets.dtype, stored.logits.dtype) == (np.float64, np.float32)
    assert r2_score(stored.targets, stored.logits) == pytest.approx(right.row["test_r2"], abs=1e-6)
    tokens = torch.from_numpy(cls_tokens(cache, "test")).float()[:, None]
    torch.testing.assert_close(
        right.head().predict(tokens), torch.from_numpy(stored.logits), rtol=1e-4, atol=1e-4
    )


def test_probe_leaves_out_samples_without_a_value_and_says_how_many(tmp_path: Path) -> None:
    cache = annotated(tmp_path, n_missing=7)
    with logged() as lines:
        (trained,) = probe(cache, target="size", head="ridge", **QUICK)
    assert (trained.row["train_rows"], trained.row["test_rows"]) == (233, 113)
    assert trained.predictions().sample_ids == tuple(cache.split("test").ids[7:])
    counts = [line for line in lines if "left out" in line]
    assert counts == [
        "7 of 240 samples of split train have no value in column 'size' and are left out",
        "7 of 120 samples of split test have no value in column 'size' and are left out",
    ]


def test_probe_in_another_unit_scores_the_same_r2_and_errors_in_that_unit(tmp_path: Path) -> None:
    one, thousand = (
        probe(annotated(tmp_path / str(unit), unit=unit), target="size", head="linear", **QUICK)
        .probes[0]
        .row
        for unit in (1.0, 1000.0)
    )
    assert thousand["test_r2"] == pytest.approx(one["test_r2"], abs=1e-4)
    assert thousand["test_mae"] == pytest.approx(1000 * one["test_mae"], rel=1e-2)
    assert thousand["test_rmse"] == pytest.approx(1000 * one["test_rmse"], rel=1e-2)


@pytest.mark.parametrize(("head", "tolerance"), [("ridge", 1e-5), ("linear", 0.2)])
def test_probe_of_streamed_tokens_equals_that_of_resident_ones(
    tmp_path: Path, head: str, tolerance: float
) -> None:
    """A stream shuffles within its windows, so that batches of trained heads differ."""
    cache = annotated(tmp_path, n_missing=3)
    resident, streamed = (
        probe(cache, target="size", head=head, features=mode, refresh=True, **QUICK)
        .probes[0]
        .predictions()
        for mode in ("resident", "stream")
    )
    assert streamed.targets.tolist() == resident.targets.tolist()
    np.testing.assert_allclose(streamed.logits, resident.logits, rtol=tolerance)


def test_two_targets_of_one_cache_have_their_own_labels(tmp_path: Path) -> None:
    cache = annotated(tmp_path, coin=lambda n: np.arange(n) % 2)
    results = [
        probe(cache, target=target, head="linear", **QUICK).probes[0]
        for target in (None, "size", "coin", "size")
    ]
    assert [p.spec.get("target") for p in results] == [
        None,
        {"columns": ["size"], "task": "regression"},
        {"columns": ["coin"], "task": "classification"},
        {"columns": ["size"], "task": "regression"},
    ]
    assert results[1].id == results[3].id
    assert len({p.id for p in results}) == 3
    assert results[2].predictions().targets.tolist() == (np.arange(120) % 2).tolist()
    table = read_results(cache).table.set_index("target")
    assert set(table.index) == {"label", "size", "coin"}
    assert table.loc["size", "test_r2"] == results[1].row["test_r2"]
    assert np.isnan(table.loc["size", "test_balanced_accuracy"])


def test_multi_label_target_of_several_columns(tmp_path: Path) -> None:
    cache = annotated(
        tmp_path, a=lambda n: np.arange(n) % 2, b=lambda n: (np.arange(n) % 3 == 0).astype(int)
    )
    (trained,) = probe(cache, target="a,b", head="linear", **QUICK)
    assert trained.spec["head_spec"]["multi_label"]
    assert trained.row["test_mean_average_precision"] is not None
    assert trained.head().classes == ("a", "b")


def test_probe_of_a_corrected_column_is_another_experiment(tmp_path: Path) -> None:
    cache = annotated(tmp_path)
    (before,) = probe(cache, target="size", head="ridge", **QUICK)
    frame = cache.annotations.drop(columns="label").reset_index()
    frame["size"] = -frame["size"]
    annotate(cache, frame)
    (after,) = probe(open_cache(cache.path), target="size", head="ridge", **QUICK)
    assert after.id != before.id
    assert after.spec["annotations"]["size"] != before.spec["annotations"]["size"]
    assert after.settings.experiment_key != before.settings.experiment_key
    assert after.settings.data_key != before.settings.data_key


def test_seeds_of_a_regression_are_averaged_and_compared_with_its_baseline(tmp_path: Path) -> None:
    cache = annotated(tmp_path)
    options = {**QUICK, "layers": ["2", "last"]}
    results = probe(cache, target="size", head="linear", seeds=2, **options)
    means = results.over_seeds()
    assert means["n_seeds"].tolist() == [2, 2]
    assert means["test_r2_mean"].notna().all()
    gains = results.with_gain().set_index("layers")["gain"]
    assert (gains["2"] > 0.5).all()
    assert (gains["last"] == 0).all()
    text = results.to_text(gain=True)
    assert "target size" in text
    assert "MAE" in text
    assert "RMSE" in text


def test_ids_of_probes_of_the_label_do_not_depend_on_annotations(tmp_path: Path) -> None:
    cache = write_planted_cache(root=tmp_path / "plain", strength=0.0)
    other = annotated(tmp_path / "annotated")
    (plain,), (with_columns,), (named,) = (
        plan_probes(c, ProbeRequest(head="linear", target=target))
        for c, target in ((cache, None), (other, None), (other, "label"))
    )
    assert plain.id == with_columns.id == named.id
    assert "target" not in plain.to_json()


def test_spec_with_a_target_travels_to_another_process(tmp_path: Path) -> None:
    (spec,) = plan_probes(
        annotated(tmp_path, n_missing=2), ProbeRequest(head="linear", target="size")
    )
    sent = pickle.loads(pickle.dumps(spec))
    assert sent.id == spec.id
    split = spec.tokens.cache.split("train")
    assert sent.resolved_target.rows(split).tolist() == list(range(2, 240))


@pytest.mark.parametrize(
    ("column", "task", "error", "message"),
    [
        ("flat", None, ProbeError, r"column 'flat': all 240 values are 2.5; there is nothing"),
        ("size", "classification", OptionError, "which are no classes"),
    ],
)
def test_columns_that_cannot_be_predicted_raise(
    tmp_path: Path, column: str, task: str | None, error: type[Exception], message: str
) -> None:
    cache = annotated(
        tmp_path,
        flat=lambda n: np.full(n, 2.5),
    )
    with pytest.raises(error, match=message):
        probe(cache, target=column, task=task, head="linear", **QUICK)


def test_shots_of_a_regression_and_heads_of_classes_raise(tmp_path: Path) -> None:
    cache = annotated(tmp_path)
    with pytest.raises(OptionError, match="a regression has no classes: give a train_fraction"):
        probe(cache, target="size", shots=5, head="linear", **QUICK)
    with pytest.raises(OptionError, match="logreg is trained for classification"):
        probe(cache, target="size", head="logreg", **QUICK)
    (half,) = probe(cache, target="size", train_fraction=0.5, head="linear", **QUICK)
    assert half.row["train_rows"] == 120


def test_target_with_values_of_minus_one_says_that_they_are_a_class(tmp_path: Path) -> None:
    cache = annotated(tmp_path, stage=lambda rows: np.arange(rows) % 3 - 1)
    with logged() as lines:
        (trained,) = probe(cache, target="stage", head="ridge", **QUICK)
    assert trained.predictions().class_names == ("-1", "0", "1")
    assert [line for line in lines if "column 'stage': -1 is a class" in line]
