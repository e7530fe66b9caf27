from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import layercache
from layercache.cache import open_cache
from layercache.deploy import predict_probe
from layercache.extraction import image_input
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.models.backbone import Backbone
from layercache.extraction.pipeline.decode import open_image
from layercache.probing.results.probe_store import Probe
from tests.deploy.trained import Trained


@pytest.fixture(scope="module")
def members(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Probe]:
    root = tmp_path_factory.mktemp("probes")
    options = {"layers": "mid-last", "folds": 2, "probes_root": root, "device": "cpu"}
    return layercache.probe(trained.cache, head=["ridge", "lda"], **options).probes  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pooled(trained: Trained, members: Sequence[Probe]) -> Probe:
    roots = {"root": trained.cache.parents[2], "probes_root": members[0].path.parents[2]}
    return layercache.ensemble(members, **roots, device="cpu").probes[-1]


def test_ensemble_predicts_images_as_the_pool_of_its_stored_test_outputs(
    trained: Trained, pooled: Probe
) -> None:
    ids = open_cache(trained.cache).split("test").ids[:8]
    files = [trained.images / i for i in ids]
    model, result = predict_probe(pooled.path, files, weights=trained.weights, device="cpu")
    np.testing.assert_allclose(
        result.outputs, pooled.predictions().logits[:8], atol=0.02, rtol=0.01
    )
    best = pooled.predictions().logits[:8].argmax(1)
    names = [model.checkpoint.classes[c] for c in best]
    assert [image.classes[0] for image in result.images] == names  # type: ignore[union-attr]


def test_single_probe_predicts_as_its_head(trained: Trained) -> None:
    ids = open_cache(trained.cache).split("test").ids[:4]
    probe = trained.probes["linear"]
    _, result = predict_probe(
        probe.path, [trained.images / i for i in ids], weights=trained.weights, device="cpu"
    )
    np.testing.assert_allclose(result.outputs, probe.predictions().logits[:4], atol=0.02, rtol=0.01)


def test_members_share_every_decode_and_the_forward_of_their_backbone(
    trained: Trained, pooled: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, ran = [], []

    def count_decode(samples: FileSamples, row: int, **options: Any) -> Image.Image:
        decoded.append(samples.ids[row])
        return open_image(samples, row, **options)

    def count_forward(backbone: Backbone, x: Tensor) -> Tensor:
        ran.append(len(x))
        return forward_tokens(backbone, x)

    forward_tokens = Backbone.forward_tokens
    monkeypatch.setattr(image_input, "open_image", count_decode)
    monkeypatch.setattr(Backbone, "forward_tokens", count_forward)
    files = [str(trained.images / i) for i in open_cache(trained.cache).split("test").ids]
    predict_probe(pooled.path, files, weights=trained.weights, device="cpu", batch_size=4)
    assert len(pooled.spec["ensemble"]["members"]) == 2
    assert sorted(decoded) == sorted(files)
    assert sum(ran) == len(files)


def test_image_that_cannot_be_decoded_is_skipped_for_all_members(
    trained: Trained, pooled: Probe, tmp_path: Path
) -> None:
    files = [trained.images / i for i in open_cache(trained.cache).split("test").ids[:2]]
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:200])
    _, result = predict_probe(
        pooled.path, [broken, *files], weights=trained.weights, device="cpu", on_error="skip"
    )
    assert [image.image for image in result.images] == [str(file) for file in files]
    assert list(result.skipped) == [str(broken)]
    assert len(result.outputs) == 2
