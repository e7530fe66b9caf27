"""Scalar mix, efficient probing and fusion on their backbone: logits, torch.export and ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layercache.cache.find import open_cache
from layercache.deploy import export_onnx, export_torch, load_classifier
from layercache.probing.api import probe
from tests.deploy.trained import TRAIN_CONFIG, Trained

OPTIONS = {"layers": "mid-last", "lr": 1e-2, "weight_decay": 1e-4, "dropout": 0.0}


@pytest.mark.parametrize("head", ["scalar-mix", "efficient", "fusion"])
def test_classifier_and_exports_give_the_logits_of_the_cache(
    trained: Trained, tmp_path: Path, head: str
) -> None:
    spatial = {"spatial": "cls+grid:2", "gate": "sample"} if head == "fusion" else {}
    (made,) = probe(
        str(trained.cache),
        head=head,
        train_config=TRAIN_CONFIG,
        device="cpu",
        probes_root=str(tmp_path / "probes"),
        **spatial,
        **OPTIONS,
    )  # type: ignore[arg-type]
    classifier = load_classifier(made.path, weights=trained.weights, device="cpu")
    images = [
        Image.open(trained.images / name) for name in open_cache(trained.cache).split("test").ids
    ]
    cached = made.predictions().logits
    with torch.inference_mode():
        logits = classifier(classifier.preprocess(images)).numpy()
    np.testing.assert_allclose(logits, cached, atol=5e-3 * np.abs(cached).max())
    assert export_torch(classifier, tmp_path / "head.pt2").max_difference < 1e-4
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert export_onnx(classifier, tmp_path / "head.onnx").max_difference < 1e-4
