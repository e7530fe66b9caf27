"""Scalar mix, efficient probing and fusion on their backbone: logits, torch.export and ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from layercache.cache.find import open_cache
from layercache.deploy import export_onnx, export_torch, load_classifier
from layercache.deploy.card import write_card
from layercache.probing.api import probe
from layercache.probing.results.probe_store import Probe
from layercache.probing.training import validation_metrics
from tests.deploy.trained import TRAIN_CONFIG, Trained

OPTIONS = {"layers": "mid-last", "lr": 1e-2, "weight_decay": 1e-4, "dropout": 0.0}


HEADS = [
    ("scalar-mix", None),
    ("efficient", None),
    ("fusion", 0.25),
    ("fusion", 0.0),
    ("fusion", 1.0),
]
"""Heads with the share of the spatial branch of a fusion head."""


@pytest.fixture
def made(
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    head: str,
    share: float | None,
) -> Probe:
    """A head on the cache of `trained`, with the given share of the spatial branch."""

    def choose(by_share: Any, *, metric: Any) -> dict[str, float]:
        return {**by_share[0], validation_metrics.SHARE: share}

    monkeypatch.setattr(validation_metrics, "best_share", choose)
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
    return made


@pytest.mark.parametrize(("head", "share"), HEADS)
def test_classifier_gives_the_logits_of_the_cache(
    trained: Trained, made: Probe, share: float | None
) -> None:
    card = write_card(made.head(), made.path)
    assert ("only the 4 pooled tokens" in card) == (share == 0.0)
    assert ("only the 5 spatial tokens" in card) == (share == 1.0)
    classifier = load_classifier(made.path, weights=trained.weights, device="cpu")
    images = [
        Image.open(trained.images / name) for name in open_cache(trained.cache).split("test").ids
    ]
    cached = made.predictions().logits
    with torch.inference_mode():
        logits = classifier(classifier.preprocess(images)).numpy()
    np.testing.assert_allclose(logits, cached, atol=5e-3 * np.abs(cached).max())


@pytest.mark.parametrize(
    ("head", "share"),
    [
        pytest.param(*one, marks=[] if one == ("fusion", 0.25) else pytest.mark.slow)
        for one in HEADS
    ],
)
def test_exports_give_the_logits_of_the_classifier(
    trained: Trained, made: Probe, tmp_path: Path
) -> None:
    """Slow but for fusion with both branches; test_heads.py compiles every head as one graph."""
    classifier = load_classifier(made.path, weights=trained.weights, device="cpu")
    assert export_torch(classifier, tmp_path / "head.pt2").max_difference < 1e-4
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert export_onnx(classifier, tmp_path / "head.onnx").max_difference < 1e-4
