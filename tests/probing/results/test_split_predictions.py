from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layercache.errors import OptionError, ProbeNotFoundError, UnknownNameError
from layercache.probing.api import probe
from layercache.probing.results.split_predictions import predict_split
from layercache.probing.results.table.prediction_table import prediction_table
from layercache.testing import write_cache, write_planted_cache
from tests.probing.quick import ONE_CONFIG

LAST: dict[str, Any] = {"layers": "last", "device": "cpu", **ONE_CONFIG}


def test_predictions_of_the_test_split_are_those_that_are_stored(tmp_path: Path) -> None:
    (trained,) = probe(write_planted_cache(root=tmp_path), head="attentive", **LAST)
    stored, again = prediction_table(trained), predict_split(trained, "test")
    assert list(again["id"]) == list(stored["id"])
    assert list(again["prediction"]) == list(stored["prediction"])
    names = [name for name in stored if name.startswith("probability_")]
    np.testing.assert_allclose(again[names], stored[names], atol=1e-5)


def test_split_without_labels_is_predicted_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = {"train": 60, "test": 30, "unlabelled_test": 20}
    tokens = {name: rng.normal(size=(2, 2, n, 8)).astype("float16") for name, n in sizes.items()}
    labels = {name: np.arange(n) % 3 for name, n in sizes.items()}
    labels["unlabelled_test"][:] = -1
    cache = write_cache(tokens, labels, root=tmp_path, classes=3)
    (trained,) = probe(cache, head="linear", **LAST)
    table = predict_split(trained, "unlabelled_test")
    assert list(table["id"]) == cache.split("unlabelled_test").ids
    assert set(table["prediction"]) <= set(cache.classes)
    with pytest.raises(UnknownNameError, match="unknown split 'val'"):
        predict_split(trained, "val")


def test_probe_without_a_head_cannot_predict(tmp_path: Path) -> None:
    (trained,) = probe(write_planted_cache(root=tmp_path), head="knn", **LAST)
    with pytest.raises(ProbeNotFoundError, match="knn baseline or an ensemble has none"):
        predict_split(trained, "test")


def test_probe_of_a_cache_without_labels_says_how_to_add_them(tmp_path: Path) -> None:
    tokens = {name: np.ones((1, 1, n, 8), "float16") for name, n in (("train", 6), ("test", 3))}
    labels = {"train": np.full(6, -1), "test": np.full(3, -1)}
    cache = write_cache(tokens, labels, root=tmp_path, kinds=("cls",), classes=())
    with pytest.raises(OptionError, match=r"its dataset has no labels: .*layercache annotate"):
        probe(cache, head="linear", **LAST)
