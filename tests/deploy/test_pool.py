from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

import layercache
from layercache.cache import open_cache
from layercache.deploy import pool, predict_probe
from layercache.errors import OptionError
from layercache.probing.results.probe_store import Probe
from tests.deploy.trained import Trained


@pytest.fixture(scope="module")
def members(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Probe]:
    root = tmp_path_factory.mktemp("probes")
    options = {"layers": "mid-last", "folds": 2, "probes_root": root, "device": "cpu"}
    return layercache.probe(trained.cache, head=["ridge", "logreg"], **options).probes  # type: ignore[arg-type]


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


def test_one_backbone_for_members_of_several_is_refused(
    trained: Trained, members: Sequence[Probe], pooled: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_backbones(probe: Probe, *, root: object) -> list[tuple[Probe, float]]:
        return [
            (replace(m, row={**m.row, "model": f"vit_{i}"}), 0.5) for i, m in enumerate(members)
        ]

    monkeypatch.setattr(pool, "read_members", two_backbones)
    with pytest.raises(OptionError, match="have vit_0, vit_1: leave them out"):
        predict_probe(pooled.path, [trained.images], weights=trained.weights)
