"""Exported files give the same logits, and a file that does not is never left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from layercache.deploy import Classifier, export_onnx, export_torch, load_head
from layercache.deploy import export as module
from layercache.errors import ExportError, MissingExtraError
from tests.deploy.trained import Trained


@pytest.fixture(scope="module")
def classifier(trained: Trained) -> Classifier:
    return load_head(trained.probes["attentive"].path).with_backbone(
        weights=trained.weights, device="cpu"
    )


def batch(classifier: Classifier, trained: Trained, n: int) -> torch.Tensor:
    return classifier.preprocess(
        [Image.open(p).convert("RGB") for p in sorted((trained.images / "down").iterdir())[:n]]
    )


def test_onnx_runs_in_onnxruntime_with_any_batch(
    classifier: Classifier, trained: Trained, tmp_path: Path
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = export_onnx(classifier, tmp_path / "new" / "head.onnx")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["head.onnx"]
    assert done.bytes == done.path.stat().st_size
    session = runtime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    for n in (1, 5):
        x = batch(classifier, trained, n)
        with torch.inference_mode():
            wanted = classifier(x).numpy()
        np.testing.assert_allclose(
            session.run(["logits"], {"images": x.numpy()})[0], wanted, atol=1e-5
        )
    said = json.loads(session.get_modelmeta().custom_metadata_map["layercache"])
    assert said["classes"] == ["across", "down"]
    assert said["preprocessing"]["input_size"] == [32, 32]


def test_torch_export_reloads_with_any_batch(
    classifier: Classifier, trained: Trained, tmp_path: Path
) -> None:
    done = export_torch(classifier, tmp_path / "head.pt2")
    assert (done.images, done.max_difference < 1e-5) == (4, True)
    extra = {"layercache.json": ""}
    again = torch.export.load(done.path, extra_files=extra).module()
    for n in (1, 5):
        x = batch(classifier, trained, n)
        with torch.inference_mode():
            assert torch.allclose(again(x), classifier(x), atol=1e-5)
    assert json.loads(extra["layercache.json"])["activation"] == "softmax"


def fake_export(
    classifier: Classifier, path: Path, *, run: Any, fault: Exception | None = None
) -> module.Export:
    def write(example: torch.Tensor, file: Path) -> None:
        assert example.shape == (2, 3, 32, 32)
        file.write_bytes(b"a file")
        if fault is not None:
            raise fault

    return module._export(classifier, path, images=(), write=write, load=lambda file: run)


def test_the_check_refuses_wrong_logits_and_leaves_what_was_there(
    classifier: Classifier, tmp_path: Path
) -> None:
    path = tmp_path / "head.bin"
    assert fake_export(classifier, path, run=classifier).max_difference < 1e-5
    before = path.stat().st_mtime_ns
    bad: dict[str, Any] = {
        "logits differ by": lambda x: classifier(x) + 0.1 * classifier(x).abs().max(),
        "for one image at a time": lambda x: classifier(x) if len(x) > 1 else 2 * classifier(x),
        r"expected logits \(4, 2\), the exported file gives \(4, 1\)": lambda x: classifier(x)[
            :, :1
        ],
        "logits differ by nan": lambda x: classifier(x) * float("nan"),
    }
    for words, run in bad.items():
        with pytest.raises(ExportError, match=words):
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


def test_without_the_extra_the_command_is_named(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(
        MissingExtraError, match=r"onnxruntime is missing.*pip install 'layercache\[export\]'"
    ):
        export_onnx(classifier, tmp_path / "head.onnx")
