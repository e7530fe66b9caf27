from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from layercache.cache.find import open_cache
from layercache.deploy import Classifier, export_onnx, export_torch, load_classifier
from layercache.deploy import export as export_module
from layercache.errors import ExportError, MissingExtraError
from tests.deploy.trained import Trained, train


@pytest.fixture(scope="module")
def classifier(trained: Trained) -> Classifier:
    return load_classifier(trained.probes["attentive"].path, weights=trained.weights, device="cpu")


def batch(classifier: Classifier, trained: Trained, n: int) -> torch.Tensor:
    return classifier.preprocess(
        [Image.open(p).convert("RGB") for p in sorted((trained.images / "down").iterdir())[:n]]
    )


def test_export_onnx_in_onnxruntime_gives_the_same_logits_for_any_batch_size(
    classifier: Classifier, trained: Trained, tmp_path: Path
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export = export_onnx(classifier, tmp_path / "new" / "head.onnx")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["head.onnx"]
    assert export.bytes == export.path.stat().st_size
    session = runtime.InferenceSession(str(export.path), providers=["CPUExecutionProvider"])
    for n in (1, 5):
        x = batch(classifier, trained, n)
        with torch.inference_mode():
            expected = classifier(x).numpy()
        np.testing.assert_allclose(
            session.run(["logits"], {"images": x.numpy()})[0], expected, atol=1e-5
        )
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["layercache"])
    assert metadata["classes"] == ["across", "down"]
    assert metadata["preprocessing"]["input_size"] == [32, 32]


def test_export_torch_reloaded_gives_the_same_logits_for_any_batch_size(
    classifier: Classifier, trained: Trained, tmp_path: Path
) -> None:
    export = export_torch(classifier, tmp_path / "head.pt2")
    assert (export.images, export.max_difference < 1e-5) == (4, True)
    extra = {"layercache.json": ""}
    reloaded = torch.export.load(export.path, extra_files=extra).module()
    for n in (1, 5):
        x = batch(classifier, trained, n)
        with torch.inference_mode():
            assert torch.allclose(reloaded(x), classifier(x), atol=1e-5)
    assert json.loads(extra["layercache.json"])["activation"] == "softmax"


def test_export_torch_of_other_taps_and_token_kinds_gives_the_same_logits(tmp_path: Path) -> None:
    tokens = "cls+reg+std+max+attn"
    made = train(tmp_path, model="tiny_dinov2_reg4", tap="act", tokens=tokens, heads=["linear"])
    assert open_cache(made.cache).spec.width == 96
    classifier = load_classifier(made.probes["linear"].path, weights=made.weights, device="cpu")
    images = [Image.open(made.images / name) for name in open_cache(made.cache).split("test").ids]
    cached = made.probes["linear"].predictions().logits
    with torch.inference_mode():
        logits = classifier(classifier.preprocess(images)).numpy()
    np.testing.assert_allclose(logits, cached, atol=2e-3 * np.abs(cached).max())
    assert export_torch(classifier, tmp_path / "head.pt2").max_difference < 1e-5


def fake_export(
    classifier: Classifier, path: Path, *, run: Any, fault: Exception | None = None
) -> export_module.Export:
    def write(example: torch.Tensor, file: Path) -> None:
        assert example.shape == (2, 3, 32, 32)
        file.write_bytes(b"a file")
        if fault is not None:
            raise fault

    return export_module.export_checked(
        classifier, path, images=(), write=write, load=lambda file: run
    )


def test_export_with_wrong_logits_is_refused_and_keeps_the_existing_file(
    classifier: Classifier, tmp_path: Path
) -> None:
    path = tmp_path / "head.bin"
    assert fake_export(classifier, path, run=classifier).max_difference < 1e-5
    before = path.stat().st_mtime_ns
    bad: dict[str, Any] = {
        "output of the exported file differs by": lambda x: (
            classifier(x) + 0.1 * classifier(x).abs().max()
        ),
        "for one image at a time": lambda x: classifier(x) if len(x) > 1 else 2 * classifier(x),
        r"expected an output \(4, 2\), got \(4, 1\) from the exported file": lambda x: classifier(
            x
        )[:, :1],
        "file differs by nan": lambda x: classifier(x) * float("nan"),
    }
    for message, run in bad.items():
        with pytest.raises(ExportError, match=message):
            fake_export(classifier, path, run=run)
    with pytest.raises(
        ExportError,
        match=r"cannot be exported \(ZeroDivisionError: .*by zero\); nothing was written",
    ):
        fake_export(classifier, path, run=lambda x: classifier(x) / (1 // (len(x) - 1)))
    with pytest.raises(
        ExportError, match=r"cannot be exported \(NotImplementedError: no such operator\)"
    ):
        fake_export(classifier, path, run=classifier, fault=NotImplementedError("no such operator"))
    assert [p.name for p in tmp_path.iterdir()] == ["head.bin"]
    assert path.stat().st_mtime_ns == before


def test_export_onnx_without_its_packages_names_the_extra(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingExtraError, match=r"onnx is missing.*pip install -e '\.\[export\]'"):
        export_onnx(classifier, tmp_path / "head.onnx")
