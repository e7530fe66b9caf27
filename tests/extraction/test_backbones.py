"""load_backbone against hooks written out by hand on plain timm modules, pooled in float64 with numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from layercache.errors import BackboneError, OptionError, UnknownNameError
from layercache.extraction.backbones import Backbone, load_backbone
from tests.extraction.families import FAMILIES, Family, checkpoint

IMAGES = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
NAMES = list(FAMILIES)


def load(name: str, tmp_path: Path, **options: Any) -> Backbone:
    return load_backbone(name, weights=checkpoint(name, tmp_path), **({"store_dtype": "float32"} | options))


def hidden_states(family: Family, name: str, tmp_path: Path, *, tap: str) -> list[np.ndarray]:
    """Every layer's whole map (B, N, D) in float64, from a module of its own."""
    module: Any = family.build()
    module.load_state_dict(torch.load(checkpoint(name, tmp_path), weights_only=True))
    module.eval()
    seen: dict[str, torch.Tensor] = {}

    def keep(key: str, part: nn.Module) -> None:
        part.register_forward_hook(lambda m, args, out: seen.update({key: out.detach().clone()}))

    for i, block in enumerate(module.blocks):
        keep(f"block{i}", block)
        if hasattr(block, "norm2"):
            keep(f"norm{i}", block.norm2)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (family.mean, family.std))
    module.forward_features((IMAGES.float() / 255 - mean) / std)
    depth = len(module.blocks)
    norm = getattr(module, family.final_norm)
    with torch.no_grad():
        layers = {
            "norm2": [*(seen[f"norm{i}"] for i in range(1, depth)), norm(seen[f"block{depth - 1}"])],
            "block": [seen[f"block{i}"] for i in range(depth)],
            "block-norm": [norm(seen[f"block{i}"]) for i in range(depth)],
        }[tap]
    return [x.double().numpy() for x in layers]


@pytest.mark.parametrize("tap", ["norm2", "block", "block-norm"])
@pytest.mark.parametrize("name", NAMES)
def test_cls_and_ap_of_every_layer(name: str, tap: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    kinds = ("cls", "ap") if family.class_token else ("ap",)
    backbone = load(name, tmp_path, tap=tap, tokens=kinds)
    maps = hidden_states(family, name, tmp_path, tap=tap)
    wanted = [[x[:, 0]] * family.class_token + [x[:, family.prefix :].mean(1)] for x in maps]
    got = backbone(IMAGES)
    assert got.shape == (len(maps), len(kinds), 3, backbone.width)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_prefix_count_is_seen(name: str, tmp_path: Path) -> None:
    """Negative control: one prefix token more or less in the mean is far outside the tolerance above."""
    family = FAMILIES[name]
    backbone = load(name, tmp_path, tokens="ap")
    maps = hidden_states(family, name, tmp_path, tap="norm2")
    for prefix in {family.prefix + 1, max(family.prefix - 1, 0)} - {family.prefix}:
        wrong = np.array([x[:, prefix:].mean(1) for x in maps])
        assert np.abs(backbone(IMAGES)[:, 0].numpy() - wrong).max() > 1e-2


def test_float16_is_the_rounded_float32(tmp_path: Path) -> None:
    exact = load("tiny_vit", tmp_path)(IMAGES)
    half = load("tiny_vit", tmp_path, store_dtype="float16")(IMAGES)
    assert half.dtype == torch.float16
    assert torch.equal(half, exact.half())


def test_a_subset_of_layers_is_that_of_all(tmp_path: Path) -> None:
    every = load("tiny_vit", tmp_path)(IMAGES)
    some = load("tiny_vit", tmp_path, layers=(1, 3))
    assert some.layers == (1, 3)
    assert torch.equal(some(IMAGES), every[[0, 2]])


def test_no_class_token_is_said(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"tokens 'cls': this model has no class token \(0 prefix tokens and 4 x 4 patches\): pass --tokens ap"):
        load("tiny_siglip", tmp_path)


def test_refuses_other_images(tmp_path: Path) -> None:
    backbone = load("tiny_vit", tmp_path)
    with pytest.raises(OptionError, match=r"tiny_vit: expected uint8 images \(B, 3, 32, 32\), got torch.float32 \(3, 3, 32, 32\)"):
        backbone(IMAGES.float())
    with pytest.raises(OptionError, match=r"got torch.uint8"):
        backbone(IMAGES[:, :, :16])


def test_unknown_model_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'dinov2_b16': did you mean .*dinov2_b14"):
        load_backbone("dinov2_b16")
