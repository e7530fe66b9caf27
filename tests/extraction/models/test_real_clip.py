"""The real CLIP ViT-B/16, dequantised from int8: $LAYERCACHE_REAL/clip.safetensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config

from layercache.extraction.models.backbone import Backbone
from layercache.extraction.models.loading import load_encoder

pytestmark = pytest.mark.real
ROOT = Path(os.environ.get("LAYERCACHE_REAL", "."))


def pictures() -> list[Image.Image]:
    """Smooth colour patterns; the comparison needs no real photographs."""
    y, x = np.mgrid[:240, :320] / 240
    return [
        Image.fromarray(
            (127 + 120 * np.sin(np.stack([x * a, y * a, x * y * a], -1))).astype(np.uint8)
        )
        for a in (3, 9, 27)
    ]


def pixels(backbone: Backbone, image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(backbone.preprocessing.resize_and_crop(image).copy())


def plain(architecture: str) -> Any:
    module = timm.create_model(architecture, num_classes=512)
    module.load_state_dict(load_file(ROOT / "clip.safetensors"))
    return module.eval()


@torch.no_grad()
def test_backbone_tokens_and_projection_equal_plain_timm() -> None:
    backbone = load_encoder(
        "clip_b16", weights=ROOT / "clip.safetensors", storage_dtype="float32", projected=True
    )
    module = plain("vit_base_patch16_clip_quickgelu_224.openai")
    seen = []
    for block in module.blocks[1:]:
        block.norm2.register_forward_hook(lambda m, args, out: seen.append(out))
    config = resolve_model_data_config(module) | {"crop_pct": 1.0}  # as OpenAI's own transform
    transform = create_transform(**config, is_training=False)
    joint = module(torch.stack([transform(p) for p in pictures()]))
    images = torch.stack([pixels(backbone, p) for p in pictures()])
    got = backbone(images)
    assert got.shape == (12, 2, 3, 768)
    np.testing.assert_allclose(got[:11, 0], torch.stack(seen)[:, :, 0], atol=1e-4)
    np.testing.assert_allclose(got[:11, 1], torch.stack(seen).double()[:, :, 1:].mean(2), atol=1e-4)
    np.testing.assert_allclose(got[11, 0, :, :512], joint, atol=1e-4)
    assert (got[11, :, :, 512:] == 0).all()

    control = plain("vit_base_patch16_clip_224.openai")(
        torch.stack([transform(p) for p in pictures()])
    )
    assert (
        (control - joint).abs().max() > 0.05
    )  # GELU instead of QuickGELU: strict loading does not see it, the numbers do


def test_backbone_in_half_precision_on_real_weights_is_close() -> None:
    """bf16 changes a token by a few percent of its length, float16 storage by less than 0.1 %."""
    images = None
    tokens = {}
    for precision, store in (("fp32", "float32"), ("fp32", "float16"), ("bf16", "float32")):
        backbone = load_encoder(
            "clip_b16", weights=ROOT / "clip.safetensors", precision=precision, storage_dtype=store
        )  # type: ignore[arg-type]
        images = (
            torch.stack([pixels(backbone, p) for p in pictures()]) if images is None else images
        )
        tokens[precision, store] = backbone(images).double()
    exact = tokens["fp32", "float32"]

    def error(which: tuple[str, str]) -> float:
        return float(((tokens[which] - exact).norm(dim=-1) / exact.norm(dim=-1)).max())

    assert error(("fp32", "float16")) < 1e-3
    assert error(("bf16", "float32")) < 0.1
