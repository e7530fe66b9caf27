from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from layercache.errors import OptionError
from layercache.probing.api import probe
from layercache.probing.results.table.prediction_table import prediction_table, write_predictions
from layercache.testing.probes import write_probe
from tests.probing.quick import ONE_CONFIG

LAST: dict[str, Any] = {"layers": "last", "tokens": "cls", **ONE_CONFIG}


def test_table_holds_ids_targets_predictions_and_probabilities(
    planted: Callable[..., Any],
) -> None:
    cache = planted()
    (trained,) = probe(cache, head="linear", **LAST)
    table, split = prediction_table(trained), cache.split("test")
    names = cache.classes
    assert list(table["id"]) == split.ids
    assert list(table["target"]) == [names[label] for label in split.labels]
    probabilities = table[[f"probability_{name}" for name in names]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert list(table["prediction"]) == [names[c] for c in probabilities.argmax(1)]
    assert table["correct"].mean() == pytest.approx(trained.row["test_top1_accuracy"])


def test_multi_label_table_has_a_target_and_a_prediction_of_each_class(
    planted: Callable[..., Any],
) -> None:
    cache = planted(multi_label=True, layer=4, rows=200)
    (trained,) = probe(cache, head="knn", **LAST)
    table, names = prediction_table(trained), cache.classes
    targets, predictions, probabilities = (
        table[[f"{kind}_{name}" for name in names]].to_numpy()
        for kind in ("target", "prediction", "probability")
    )
    np.testing.assert_array_equal(targets, cache.split("test").labels)
    np.testing.assert_array_equal(predictions, probabilities > 0.5)
    np.testing.assert_array_equal(table["correct"], (predictions == targets).all(1))


def test_csv_and_parquet_hold_the_same_but_for_guarded_formulas(
    planted: Callable[..., Any], tmp_path: Path
) -> None:
    cache = planted()
    n, n_classes = cache.split("test").rows, len(cache.classes)
    logits = np.random.default_rng(0).normal(size=(n, n_classes))
    ids = ["=SUM(A1)", *(f"image, {i}" for i in range(1, n))]
    made = write_probe(cache, logits, ids=ids)
    table = prediction_table(made)

    def written(name: str) -> Path:
        assert write_predictions(made, tmp_path / name) == n
        return tmp_path / name

    as_csv = pd.read_csv(written("predictions.csv"))
    as_parquet = pd.read_parquet(written("predictions.parquet"))
    pd.testing.assert_frame_equal(as_parquet, table)
    pd.testing.assert_frame_equal(as_csv.iloc[1:], table.iloc[1:], check_dtype=False)
    assert list(table["id"]) == ids
    assert as_csv["id"][0] == "'=SUM(A1)"
    with pytest.raises(OptionError, match=r"ends in \.csv or \.parquet, got '.xlsx'"):
        write_predictions(made, tmp_path / "predictions.xlsx")


def test_ids_of_an_older_probe_come_from_its_cache(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = planted()
    (trained,) = probe(cache, head="linear", **LAST)
    stored = replace(trained.predictions(), sample_ids=None, class_names=None)
    monkeypatch.setattr(type(trained), "predictions", lambda self, test: stored)
    table = prediction_table(trained)
    assert list(table["id"]) == cache.split("test").ids
    assert f"probability_{cache.classes[0]}" in table
    monkeypatch.setattr(
        type(trained), "predictions", lambda self, test: replace(stored, ids="ab" * 32)
    )
    assert list(prediction_table(trained)["id"])[:2] == ["0", "1"]
    assert "the column id holds row numbers" in caplog.text


def test_intervals_of_a_probe_are_drawn_by_the_groups_of_its_predictions(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = planted()
    n = cache.split("test").rows
    labels = cache.split("test").labels
    right = np.arange(n) % 8 < 4  # whole groups of four are right or wrong
    logits = np.eye(3)[np.where(right, labels, (labels + 1) % 3)]
    made = write_probe(cache, logits)
    single = np.ptp(made.intervals("accuracy")["top1_accuracy"])
    groups = tuple(f"patient {i // 4}" for i in range(n))
    stored = replace(made.predictions(), groups=groups)
    monkeypatch.setattr(type(made), "predictions", lambda self, test: stored)
    assert np.ptp(made.intervals("accuracy")["top1_accuracy"]) > 1.5 * single
