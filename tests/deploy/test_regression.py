"""A regression at work: predictions of numbers from image files, exports and the card."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from layercache.cache.annotate import annotate
from layercache.cache.find import open_cache
from layercache.deploy import (
    Regressor,
    ValuePrediction,
    export_onnx,
    export_torch,
    load_classifier,
    load_regressor,
    predict,
)
from layercache.deploy.card import write_card
from layercache.errors import HeadMismatchError
from layercache.probing.api import probe
from layercache.probing.results.probe_store import Probe
from layercache_cli.main import main
from tests.deploy.trained import TRAIN_CONFIG, Trained, train


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("regression"), heads=["linear"], tokens="cls+ap")


@pytest.fixture(scope="module")
def brightness(made: Trained) -> Probe:
    """A head for the mean of the left half of an image, in thousands."""
    cache = open_cache(made.cache)
    rows = [
        {"id": i, "split": split, "left": 1000.5 + 1000 * pixels(made.images / i)[:, :20].mean()}
        for split in cache.splits
        for i in cache.split(split).ids
    ]
    annotate(cache, pd.DataFrame(rows))
    results = probe(
        cache,
        target="left",
        head="attentive",
        lr=1e-2,
        weight_decay=1e-4,
        dropout=0.0,
        train_config=TRAIN_CONFIG,
        device="cpu",
    )
    return results.probes[0]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), np.float64)


@pytest.fixture(scope="module")
def regressor(made: Trained, brightness: Probe) -> Regressor:
    return load_regressor(brightness.path, weights=made.weights, device="cpu")


def test_regressor_predicts_numbers_of_files_and_images(made: Trained, brightness: Probe) -> None:
    regressor = load_regressor(brightness.path, weights=made.weights, device="cpu")
    files = sorted((made.images / "down").iterdir())[:3]
    values = regressor.predict([files[0], *(Image.open(file) for file in files[1:])])
    assert values.shape == (3,)
    assert np.allclose(values, predict(regressor, files).outputs[:, 0], rtol=1e-5)
    regressor.columns = ("left", "right")
    assert regressor.predict(files).shape == (3, 1)


def test_predict_gives_the_values_of_the_probe_in_the_unit_of_the_column(
    made: Trained, brightness: Probe, regressor: Regressor
) -> None:
    stored = brightness.predictions()
    assert stored.sample_ids is not None
    result = predict(regressor, [made.images / i for i in stored.sample_ids], batch_size=4)
    values = []
    for image in result.images:
        assert isinstance(image, ValuePrediction)
        assert image.columns == ("left",)
        values.append(image.values)
    np.testing.assert_allclose(values, stored.logits, rtol=1e-4)
    assert 1e4 < np.mean(values) < 1e6


def test_load_classifier_of_a_regression_names_load_regressor_and_the_other_way_round(
    made: Trained, brightness: Probe
) -> None:
    with pytest.raises(HeadMismatchError, match=r"predicts left, .* load it with load_regressor"):
        load_classifier(brightness.path, weights=made.weights, device="cpu")
    classes = made.probes["linear"].path
    with pytest.raises(HeadMismatchError, match=r"has 2 classes .* load_classifier"):
        load_regressor(classes, weights=made.weights, device="cpu")


def test_exports_of_a_regression_predict_the_same_values(
    regressor: Regressor, tmp_path: Path
) -> None:
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = regressor(x)
    export_torch(regressor, tmp_path / "h.pt2")
    extra = {"layercache.json": ""}
    program = torch.export.load(tmp_path / "h.pt2", extra_files=extra)
    torch.testing.assert_close(program.module()(x), expected, rtol=1e-4, atol=1.0)
    description = json.loads(extra["layercache.json"])
    assert (description["columns"], description["activation"]) == (["left"], "none")
    onnxruntime = pytest.importorskip("onnxruntime")
    export_onnx(regressor, tmp_path / "h.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "h.onnx"))
    (values,) = session.run(["values"], {"images": x.numpy()})
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_card_of_a_regression_names_the_column_and_its_errors(brightness: Probe) -> None:
    text = write_card(brightness.head(), brightness.path)
    assert "that predicts the number left of an image" in text
    assert f"| test R² | {brightness.row['test_r2']:.4g} | share of the variance" in text
    assert f"| test MAE | {brightness.row['test_mae']:.4g} |" in text
    assert "mean squared error of standardised values" in text
    assert "class" not in text.partition("## Limits")[2]


def test_predict_prints_numbers_in_all_formats(
    made: Trained, brightness: Probe, capsys: pytest.CaptureFixture[str]
) -> None:
    image = made.images / "down" / "00.png"
    options = ["--weights", str(made.weights), "--device", "cpu"]
    texts = {}
    for form in ("table", "csv", "json"):
        with pytest.raises(SystemExit) as stop:
            main(["predict", str(brightness.path), str(image), "--format", form, *options])
        assert not stop.value.code
        texts[form] = capsys.readouterr().out
    (row,) = csv.DictReader(io.StringIO(texts["csv"]))
    (entry,) = json.loads(texts["json"])["images"]
    assert float(row["left"]) == entry["values"]["left"]
    assert texts["table"].split() == [str(image), "left", f"{entry['values']['left']:.5g}"]
