"""Download of timm's weights: timm's real code on a hand-made hub cache, and errors offline."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from layercache.errors import BackboneError, LayercacheError
from layercache.extraction.models.loading import load_encoder

NAME = "test_vit.r160_in1k"  # timm's own tiny ViT, 0.4 M parameters


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""

    def unknown(*args: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_load_backbone_without_network_raises_at_once_with_a_remedy(hub: Path) -> None:
    text = (
        f"{NAME}: the weights of {NAME} could not be downloaded .no network: .* cannot be "
        "resolved.: give a local checkpoint as weights"
    )
    with pytest.raises(BackboneError, match=text):
        load_encoder(NAME)


def test_load_backbone_of_a_short_name_without_network_names_the_weights(hub: Path) -> None:
    with pytest.raises(
        BackboneError,
        match=r"clip_b16: the weights of vit_base_patch16_clip_quickgelu_224.openai could not be "
        r"downloaded",
    ):
        load_encoder("clip_b16")


def test_load_backbone_with_cached_weights_loads_them(hub: Path, tmp_path: Path) -> None:
    repository = hub / "models--timm--test_vit.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    torch.manual_seed(0)
    save_file(timm.create_model(NAME).state_dict(), snapshot / "model.safetensors")
    downloaded = load_encoder(NAME)
    assert (
        downloaded.weights_digest
        == load_encoder(NAME, weights=snapshot / "model.safetensors").weights_digest
    )
    assert downloaded.preprocessing.input_size == (160, 160)
    assert downloaded.architecture == "test_vit"


def test_load_backbone_of_another_architecture_raises_before_downloading(hub: Path) -> None:
    with pytest.raises(BackboneError, match="resnet18: expected a ViT, got timm's ResNet"):
        load_encoder("resnet18")


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("vit_base_patch16_siglip_224.webli", {}, "this model has no class token"),
        ("vit_s16", {"projected": True}, "projected needs a CLIP model"),
        ("vit_s16", {"layers": "13"}, "layers: expected numbers from 1 to 12"),
        ("vit_base_patch16_xp_224", {}, "got ParallelScalingBlock: use tap 'block'"),
    ],
)
def test_load_backbone_with_unavailable_tokens_raises_before_downloading(
    name: str, options: dict[str, Any], text: str, hub: Path
) -> None:
    with pytest.raises(LayercacheError, match=text):
        load_encoder(name, **options)


def test_load_backbone_with_another_download_error_reports_its_first_line(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost:9")  # the host name is not resolved
    with pytest.raises(
        BackboneError, match=r"could not be downloaded \(.+\): give a local checkpoint"
    ):
        load_encoder(NAME)
