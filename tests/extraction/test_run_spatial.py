"""`extract` with spatial tokens: a second cache of each model, from the same forward."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layercache.cache.cache import extract_command
from layercache.cache.find import open_cache
from layercache.cache.verify import verify
from layercache.errors import OptionError
from layercache.extraction.api import extract
from layercache.extraction.compression import fit_codec, sample
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.result import Extraction
from tests.extraction.fakes import tree


def run(root: Path, **options: Any) -> list[Extraction]:
    given: dict[str, Any] = {
        "models": "vit_nano",
        "dataset": "digits",
        "limit": 40,
        "layers": "6,12",
        "spatial": "patch",
        "spatial_layers": "9,12",
        "store": "int8",
        "cache": root,
        "batch_size": 16,
        "workers": 0,
    }
    return extract(progress=False, **(given | options))


@pytest.fixture(autouse=True)
def _small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(sample, "SAMPLE_IMAGES", 8)
    monkeypatch.setattr(fit_codec, "KMEANS_ITERATIONS", 2)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of images of every forward of the module."""
    from timm.models.vision_transformer import VisionTransformer

    sizes: list[int] = []
    plain = VisionTransformer.forward_features

    def counted(self: Any, x: torch.Tensor, *args: Any, **options: Any) -> Any:
        sizes.append(len(x))
        return plain(self, x, *args, **options)

    monkeypatch.setattr(VisionTransformer, "forward_features", counted)
    return sizes


def test_spatial_tokens_come_from_the_same_forward_and_are_near_the_uncompressed(
    tmp_path: Path, forwards: list[int]
) -> None:
    pooled, spatial = run(tmp_path / "both", splits=["train"])
    assert sum(forwards) == 40 + 8  # every image once, those of the sample once more
    assert (pooled.codec, spatial.codec) == (None, "int8")
    forwards.clear()
    (alone,) = run(tmp_path / "alone", splits=["train"], spatial=None, store=None)
    assert tree(alone.path) == tree(pooled.path)
    plain = {"spatial": None, "store": None, "layers": "9,12", "tokens": "patch"}
    (exact,) = run(tmp_path / "exact", splits=["train"], **plain)
    x = exact.open().to_numpy("train").astype(np.float32)
    decoded = spatial.open().to_numpy("train").astype(np.float32)
    assert x.shape == decoded.shape
    relative = np.linalg.norm(decoded - x) / np.linalg.norm(x)
    assert 0 < relative < 0.03  # with a sample of eight images
    assert verify(spatial.path) == []


def test_spatial_tokens_with_cls_are_those_of_an_extraction_of_all(
    tmp_path: Path, forwards: list[int]
) -> None:
    both = {"splits": ["train"], "store": None}
    pooled, spatial = run(tmp_path / "both", spatial="all", **both)
    assert sum(forwards) == 40
    assert pooled.open().spec.tokens == ("cls", "ap")
    alone = {"spatial": None, "layers": "9,12", "tokens": "all"}
    (exact,) = run(tmp_path / "alone", **alone, **both)
    assert exact.open().spec.tokens[:2] == ("cls", "patch/0")
    assert tree(exact.path) == tree(spatial.path)


@pytest.mark.parametrize("store", ["pca:4", "pq:8", None])
def test_a_second_run_adds_only_what_is_missing(
    tmp_path: Path, forwards: list[int], store: str | None
) -> None:
    first = run(tmp_path, spatial=None, store=None)
    assert run(tmp_path, store=store)[0].was_complete
    pooled, spatial = run(tmp_path, store=store)
    assert pooled.path == first[0].path
    assert spatial.was_complete
    whole = tree(tmp_path)
    for path in (pooled.path, spatial.path):  # a lost block of each is written again
        record = next((path / "commits/train").glob("0*.json"))
        record.unlink()
    forwards.clear()
    again = run(tmp_path, store=store)
    assert [e.images for e in again] == [40, 40]
    assert sum(forwards) == 40
    assert tree(tmp_path) == whole


def test_bytes_do_not_depend_on_where_a_run_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layercache.cache.format import layout

    monkeypatch.setattr(layout, "MAX_SHARD_BYTES", 200_000)
    run(tmp_path / "whole", splits=["train"])
    run(tmp_path / "cut", splits=["train"])
    codec = next((tmp_path / "cut").rglob("codec.npz"))
    for path in codec.parent.rglob("commits/train/*.json"):
        if path.stem not in ("00000000",):
            path.unlink()
    monkeypatch.setattr(sample, "sample_tokens", None)  # fitted once
    run(tmp_path / "cut", splits=["train"])
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_open_cache_by_name_is_the_one_of_pooled_tokens(tmp_path: Path) -> None:
    pooled, spatial = run(tmp_path)
    assert open_cache(root=tmp_path, model="vit_nano").path == pooled.path
    cache = open_cache(root=tmp_path, fingerprint=spatial.open().spec.fingerprint)
    assert cache.path == spatial.path
    command = extract_command(cache)
    assert "--spatial patch --spatial-layers 9,12 --store int8" in command
    assert "--tokens" not in command


def test_saturated_numbers_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="layercache")
    monkeypatch.setattr(sample, "SAMPLE_IMAGES", 2)
    _, spatial = run(tmp_path)
    assert "int8 fitted on 2 images of split train" in caplog.text
    assert spatial.saturated > 0
    assert "% of the stored numbers lay outside the range of the sample" in spatial.summary()


def test_batches_are_powers_of_two_so_that_both_caches_share_them(
    tmp_path: Path, forwards: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="layercache")
    run(tmp_path, batch_size=25, splits=["train"], store=None)
    assert forwards == [16, 16, 8]
    assert "batches of 16 images, so that both caches share each forward" in caplog.text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"spatial": None}, "name them, too"),
        ({"store": "int4"}, "expected int8, pca:R"),
        ({"store": "pq:97"}, "expected at most pq:96 for tokens of width 96"),
        ({"spatial": "cls"}, "expected patch, all or grid:K, got 'cls'"),
        ({"spatial": "all"}, "store 'int8' is for patch and grid:K, and spatial 'all' has CLS"),
        ({"spatial": "grid:99"}, "K must be 1 to 7"),
        (
            {"tokens": "patch", "layers": "9,12", "store": None},
            "tokens and spatial name the same tokens",
        ),
    ],
)
def test_spatial_options_that_cannot_be_raise(
    tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(OptionError, match=text):
        run(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_load_encoder_with_spatial_tokens_has_a_second_one_of_the_same_module() -> None:
    encoder = load_encoder("vit_nano", layers="last", spatial="patch", spatial_layers="6")
    assert encoder.spatial is not None
    assert encoder.spatial.module is encoder.module
    pixels = torch.randint(0, 256, (3, 3, 28, 28), dtype=torch.uint8)
    alone = load_encoder("vit_nano", layers="6", tokens="patch")
    assert torch.equal(encoder.spatial(pixels), alone(pixels))
    assert torch.equal(encoder(pixels), load_encoder("vit_nano", layers="last")(pixels))
