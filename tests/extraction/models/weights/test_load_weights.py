"""Loading of weights: names, shapes and grids that fit, and errors for those that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from layercache.errors import BackboneError
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.weights.checkpoint import digest_weights, load_weights
from tests.extraction.models.families import FAMILIES, IMAGES, SMALL, load_saved, random_state


def test_load_backbone_of_a_file_that_declares_another_architecture_has_a_note(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    for declared, notes in (
        ("tiny_vit", ()),
        ("tiny_clip", (f"{tmp_path}/a.safetensors declares tiny_clip, loaded as tiny_vit",)),
    ):
        save_file(state, tmp_path / "a.safetensors", metadata={"arch": declared})
        assert load_encoder("tiny_vit", weights=tmp_path / "a.safetensors").notes == notes


def test_load_backbone_with_mismatched_keys_lists_them(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    state["blocks.9.odd"] = torch.zeros(1)
    del state["blocks.2.norm2.weight"]
    state["norm.bias"] = torch.zeros(7)
    text = (
        r"for tiny_vit does not fit: 1 missing: blocks.2.norm2.weight; 1 unexpected: blocks.9.odd; "
        r"1 of another shape: norm.bias \(expected \(24,\), got \(7,\)\); nearest match: 53 of 54 "
        r"names; the file's top-level keys: blocks, cls_token, head, norm, patch_embed, pos_embed: "
        r"is it the checkpoint of another model\?"
    )
    with pytest.raises(BackboneError, match=text):
        load_saved(state, tmp_path / "a.safetensors")


def test_load_backbone_with_weights_of_another_model_raises_a_short_error(tmp_path: Path) -> None:
    with pytest.raises(
        BackboneError, match=r"\d+ missing: .* and \d+ more; \d+ unexpected: .* and \d+ more"
    ) as caught:
        load_saved(random_state("tiny_eva02"), tmp_path / "a.pt")
    assert len(str(caught.value)) < 1200


def test_load_backbone_with_another_patch_size_raises(tmp_path: Path) -> None:
    state = VisionTransformer(**(SMALL | {"patch_size": 16})).state_dict()
    with pytest.raises(
        BackboneError,
        match=r"patch_embed.proj.weight \(expected \(24, 3, 8, 8\), got \(24, 3, 16, 16\)\)",
    ):
        load_saved(state, tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["tiny_vit", "tiny_dinov2_reg4"])
def test_load_backbone_with_another_grid_resamples_positions_as_timm_does(
    name: str, tmp_path: Path
) -> None:
    state, prefix = random_state(name), 0 if name == "tiny_dinov2_reg4" else 1
    large = state | {
        "pos_embed": torch.randn(1, prefix + 36, 24, generator=torch.Generator().manual_seed(3))
    }
    backbone = load_saved(large, tmp_path / "large.pt", name)
    assert backbone.notes == (
        "input 32 x 32 instead of the checkpoint's 48 x 48: positions resampled",
    )
    small = large | {
        "pos_embed": resample_abs_pos_embed(
            large["pos_embed"], [4, 4], [6, 6], num_prefix_tokens=prefix
        )
    }
    resampled = load_saved(small, tmp_path / "small.pt", name)
    assert torch.equal(backbone(IMAGES), resampled(IMAGES))
    assert not torch.equal(backbone(IMAGES), load_saved(state, tmp_path / "state.pt", name)(IMAGES))
    # The digest covers the checkpoint's own numbers: resampling may round differently elsewhere.
    assert backbone.weights_digest == digest_weights(
        {k: v for k, v in large.items() if not k.startswith("head.")}
    )


@pytest.mark.parametrize("name", list(FAMILIES))
def test_load_backbone_of_every_family_is_strict_and_has_its_own_digest(
    name: str, tmp_path: Path
) -> None:
    state = random_state(name)
    first = next(k for k in state if "norm1.weight" in k)
    whole = load_saved(state, tmp_path / "a.pt", name, tokens="ap").weights_digest
    state[first] += 1
    assert load_saved(state, tmp_path / "b.pt", name, tokens="ap").weights_digest != whole
    del state[first]
    with pytest.raises(BackboneError, match=f"1 missing: {first}"):
        load_saved(state, tmp_path / "c.pt", name, tokens="ap")


@pytest.mark.parametrize("grid", [4, 6])
def test_load_weights_with_original_names_converts_them(grid: int) -> None:
    """DINOv2 with registers as published: mask token, other names, position of the class token."""
    state = random_state("tiny_dinov2_reg4") | {"pos_embed": torch.randn(1, grid * grid, 24)}
    original = {k.replace("reg_token", "register_tokens"): v for k, v in state.items()} | {
        "mask_token": torch.zeros(1, 24)
    }
    row = torch.ones(1, 1, 24)
    original |= {
        "cls_token": state["cls_token"] - row,
        "pos_embed": torch.cat([row, state["pos_embed"]], 1),
    }
    module: Any = FAMILIES["tiny_dinov2_reg4"].build()
    load_weights(module, original, source="it", timm_module="timm.models.vision_transformer")
    assert module.patch_embed.grid_size == (grid, grid)
    for key, value in module.state_dict().items():
        torch.testing.assert_close(value, state[key])
    with pytest.raises(
        BackboneError,
        match=r"it does not fit: 1 missing: reg_token; 1 unexpected: register_tokens; .*nearest",
    ):
        load_weights(FAMILIES["tiny_dinov2_reg4"].build(), original, source="it")


def test_load_weights_with_parts_that_change_tokens_raises(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    """A deeper model, or one with registers, holds all tensors of a smaller one."""
    for key in ("blocks.4.norm1.weight", "blocks.0.ls1.gamma", "reg_token", "norm_pre.weight"):
        with pytest.raises(BackboneError, match=f"does not fit: 1 unexpected: {key}: is it"):
            load_saved(state | {key: torch.zeros(24)}, tmp_path / "a.pt")


def test_load_weights_of_another_patch_size_is_not_resampled_by_timm() -> None:
    with pytest.raises(
        BackboneError, match=r"1 of another shape: patch_embed.proj.weight \(expected \(24, 3, 8, 8"
    ):
        load_weights(
            VisionTransformer(num_classes=0, **SMALL),
            VisionTransformer(num_classes=0, **(SMALL | {"patch_size": 16})).state_dict(),
            source="it",
            timm_module="timm.models.vision_transformer",
        )
