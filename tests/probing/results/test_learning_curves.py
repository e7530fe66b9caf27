from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from layercache.errors import CacheCorruptError, ProbeError
from layercache.probing.api import probe
from layercache.probing.data.loader import DatasetLoader
from layercache.probing.plan import plan_probes
from layercache.probing.request import ProbeRequest
from layercache.probing.results.learning_curves import LearningCurves
from layercache.probing.results.probe_store import read_probe
from layercache.probing.splits.train_subset import sample_subset
from layercache.probing.training import trainer
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.fit import fit
from layercache.testing.probes import write_probe

CONFIG = TrainConfig(epochs=36, min_steps=0, min_batches=3)
OPTIONS: dict[str, Any] = {
    "head": "linear",
    "lr": [0.03, 0.003],
    "weight_decay": 1e-4,
    "dropout": 0.0,
    "train_config": CONFIG,
}


def losses_of(cache: Any, *, fold: int | None, val_epochs: list[int]) -> list[Any]:
    """Fits of the configurations on one fold, or on all training samples, by hand."""
    (spec,) = plan_probes(cache, ProbeRequest(**OPTIONS, folds=5))
    subset = sample_subset(spec, cache.split("train"))
    loader = DatasetLoader(device=torch.device("cpu"), mode="auto", memory_budget=None)
    part = None if fold is None else subset.fold(fold)
    rows = subset.refit_rows if part is None else part.train
    return fit(
        loader.train(spec.tokens, "train", rows=subset.rows),
        head=spec.head_spec,
        configs=[HParams(**hparams) for hparams in spec.grid],
        train=torch.from_numpy(rows),
        val=None if part is None else torch.from_numpy(part.val),
        seed=0,
        train_config=CONFIG,
        val_epochs=val_epochs,
    )


def test_curves_are_means_over_the_folds_and_those_of_the_final_fit(
    planted: Callable[..., Any],
) -> None:
    cache = planted()
    (trained,) = probe(cache, folds=5, device="cpu", **OPTIONS)
    table = trained.learning_curves()
    names = ["config", "lr", "weight_decay", "dropout", "fit", "epoch", "train_loss", "val_score"]
    assert list(table) == names
    evaluated = [4, 12, 24, 36]
    folds = [losses_of(cache, fold=k, val_epochs=evaluated) for k in range(5)]
    for i, lr in enumerate((0.03, 0.003)):
        rows = table[(table["config"] == i) & (table["fit"] == "search")]
        assert set(rows["lr"]) == {lr}
        expected = np.mean([heads[i].losses for heads in folds], axis=0)
        np.testing.assert_allclose(rows["train_loss"], expected, rtol=1e-5)
        scores = rows.set_index("epoch")["val_score"].dropna()
        assert list(scores.index) == evaluated
        by_hand = [[m["balanced_accuracy"] for _, m in heads[i].val_curve] for heads in folds]
        np.testing.assert_allclose(scores, np.mean(by_hand, axis=0), rtol=1e-6)
    final = table[table["fit"] == "final"]
    assert set(final["lr"]) == {trained.row["lr"]}
    selected = [0.03, 0.003].index(trained.row["lr"])
    whole = losses_of(cache, fold=None, val_epochs=[])[selected]
    np.testing.assert_allclose(final["train_loss"], whole.losses, rtol=1e-5)
    assert final["val_score"].isna().all()


def test_evaluations_for_curves_change_neither_choice_nor_head(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = planted()
    (trained,) = probe(cache, device="cpu", **OPTIONS)
    head = (trained.path / "head.safetensors").read_bytes()
    monkeypatch.setattr(trainer, "_curve_epochs", lambda *args, **options: [])
    (again,) = probe(cache, device="cpu", refresh=True, **OPTIONS)
    assert (again.path / "head.safetensors").read_bytes() == head
    assert {**again.row, "train_seconds": 0} == {**trained.row, "train_seconds": 0}
    assert again.learning_curves()["val_score"].notna().sum() == 2


def test_curves_of_a_killed_search_are_those_of_one_that_was_not(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = planted()
    options = {**OPTIONS, "device": "cpu", "configs_per_pass": 1}
    (whole,) = probe(cache, **options)
    train = trainer.SGDTrainer.train

    def dying(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.SGDTrainer, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        probe(cache, refresh=True, **options)
    monkeypatch.setattr(trainer.SGDTrainer, "train", train)
    (resumed,) = probe(cache, refresh=True, **options)
    pd.testing.assert_frame_equal(resumed.learning_curves(), whole.learning_curves())


def test_test_set_that_is_added_later_keeps_the_curves_of_the_search(
    write_cache: Callable[..., Any],
) -> None:
    labels = {name: np.arange(60) % 3 for name in ("train", "test", "other")}
    rng = np.random.default_rng(0)
    tokens = {name: rng.normal(size=(2, 2, 60, 8)).astype(np.float16) for name in labels}
    cache, options = write_cache(tokens, labels), {**OPTIONS, "device": "cpu"}
    (first,) = probe(cache, **options)
    (both,) = probe(cache, test_split=["test", "other"], **options)
    assert both.id != first.id
    pd.testing.assert_frame_equal(both.learning_curves(), first.learning_curves())


def test_curves_of_a_dropped_configuration_end_where_it_was_dropped(
    planted: Callable[..., Any],
) -> None:
    grid = {"lr": [0.1, 0.01, 0.001], "weight_decay": [1e-2, 1.0]}
    (trained,) = probe(planted(), device="cpu", **{**OPTIONS, **grid}, search="halving")
    ends = trained.learning_curves().query("fit == 'search'").groupby("config")["epoch"].max()
    assert sorted(ends)[:5] == [4] * 5
    assert ends.max() == 36


def test_head_without_epochs_and_probe_of_an_older_version_have_no_curves(
    planted: Callable[..., Any],
) -> None:
    cache = planted()
    (neighbors,) = probe(cache, head="knn", device="cpu")
    old = write_probe(cache, np.zeros((cache.split("test").rows, len(cache.classes))))
    for stored in (neighbors, old):
        assert stored.curves() is None
        with pytest.raises(ProbeError, match=r"has no learning curves: .* probe --refresh"):
            stored.learning_curves()


def test_damaged_file_is_an_error(planted: Callable[..., Any]) -> None:
    (trained,) = probe(planted(), device="cpu", **OPTIONS)
    file = Path(str(trained.path)) / "curves.npz"
    data = bytearray(file.read_bytes())
    data[200] ^= 1
    file.write_bytes(data)
    stored = read_probe(trained.path)
    assert stored is not None
    with pytest.raises(CacheCorruptError, match=r"curves.npz: SHA-256 is not"):
        stored.learning_curves()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"train_loss": np.zeros((3, 4), np.float32)}, r"train_loss: expected float32 \(2, 4\)"),
        ({"val_epochs": np.array([2, 1], np.int32)}, "ascending numbers from 1"),
        ({"val_score": np.zeros((2, 2))}, "val_score: expected float32"),
        ({"final_loss": np.zeros((1, 2), np.float32)}, "final_loss"),
    ],
)
def test_file_of_other_arrays_is_refused(change: dict[str, Any], match: str) -> None:
    arrays: dict[str, Any] = {
        "train_loss": np.zeros((2, 4), np.float32),
        "val_epochs": np.array([1, 4], np.int32),
        "val_score": np.zeros((2, 2), np.float32),
        "final_loss": np.zeros(4, np.float32),
    }
    curves = LearningCurves(**arrays)
    same = LearningCurves.from_bytes(curves.to_bytes(), configs=2)
    for name, value in vars(curves).items():
        np.testing.assert_array_equal(getattr(same, name), value)
    data = LearningCurves(**{**arrays, **change}).to_bytes()
    with pytest.raises(ValueError, match=match):
        LearningCurves.from_bytes(data, configs=2)


@pytest.mark.parametrize(
    ("epochs", "val_rows", "expected"),
    [(90, 25, [10, 30, 60]), (10, 25, []), (90, 0, []), (90, 10_000, [])],
)
def test_epochs_to_evaluate_cost_a_hundredth_of_the_training(
    epochs: int, val_rows: int, expected: list[int]
) -> None:
    assert trainer._curve_epochs(epochs, train_rows=100, val_rows=val_rows) == expected
