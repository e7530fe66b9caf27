"""Models of transformers against transformers itself: tokens, input sizes, projections."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import numpy as np
import pytest
import torch
import transformers
from timm.layers import QuickGELU
from timm.models.vision_transformer import VisionTransformer

from layercache.cache.format.cache_spec import Tap
from layercache.errors import BackboneError, OptionError
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from tests.extraction.models.transformers_models import (
    DEPTH,
    IMAGES,
    MODELS,
    TOLERANCE,
    build,
    class_attention,
    folder,
    hidden_states,
    load,
    norm_of,
    normalized,
    tower_of,
)

GATED = ("dinov2_giant", "dinov3_gated")


def kinds(key: str) -> tuple[str, ...]:
    return (
        *(("cls", "attn") if MODELS[key].class_token else ()),
        *(("reg",) if MODELS[key].registers else ()),
        *("ap", "std", "max"),
    )


def pooled(key: str, kind: str, tap: str) -> list[np.ndarray]:
    """Return every layer's token of a kind, (B, D) in float64."""
    prefix, registers = MODELS[key].prefix, MODELS[key].registers
    maps = hidden_states(key)[tap]
    patches = [x[:, prefix:] for x in maps]
    if kind == "attn":
        blocks = class_attention(key)
        # norm2 of layer l is in block l + 1; the final norm follows the last block
        blocks = [*blocks[1:], blocks[-1]] if tap == "norm2" else blocks
        weights = [block[:, prefix:, None] for block in blocks]
        return [(w * x).sum(1) / w.sum(1) for w, x in zip(weights, patches, strict=True)]
    return {
        "cls": lambda: [x[:, 0] for x in maps],
        "reg": lambda: [x[:, prefix - registers : prefix].mean(1) for x in maps],
        "ap": lambda: [x.mean(1) for x in patches],
        "std": lambda: [x.std(1) for x in patches],
        "max": lambda: [x.max(1) for x in patches],
    }[kind]()


@pytest.mark.parametrize("key", list(MODELS))
def test_tokens_equal_transformers_hidden_states_and_hooks_at_every_tap(key: str) -> None:
    for tap in get_args(Tap):
        if tap == "fc1" and key in GATED:
            with pytest.raises(BackboneError, match=r"tap fc1 expects .* use tap 'act'"):
                load(key, tap=tap, tokens=kinds(key))
            continue
        backbone = load(key, tap=tap, tokens=kinds(key))
        expected = np.stack([pooled(key, kind, tap) for kind in kinds(key)], 1)
        got = backbone(IMAGES)
        assert got.shape == (DEPTH, len(kinds(key)), len(IMAGES), backbone.width)
        np.testing.assert_allclose(got, expected, **TOLERANCE, err_msg=f"{key} {tap}")


def test_tokens_without_a_class_token_are_refused() -> None:
    with pytest.raises(BackboneError, match="'cls': this model has no class token"):
        load("siglip")


@pytest.mark.parametrize("key", list(MODELS))
def test_another_input_size_equals_transformers_at_that_size(key: str) -> None:
    size = (40, 48)
    images = torch.randint(
        0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    tower = tower_of(key, build(key))
    options: dict[str, Any] = {"output_hidden_states": True}
    if "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters:
        options["interpolate_pos_encoding"] = True
    if key == "mae":
        tower.config.mask_ratio = 0.0
        options["noise"] = torch.arange(30.0).expand(2, -1)
    with torch.no_grad():
        states = tower(normalized(images), **options).hidden_states[1:]
    expected = torch.stack([state[:, MODELS[key].prefix :].mean(1) for state in states])
    resized = PreprocessingOptions(input_size=size)
    backbone = load(key, tap="block", tokens="ap", preprocessing=resized)
    np.testing.assert_allclose(backbone(images)[:, 0], expected, **TOLERANCE)
    assert "input 40 x 48 instead of the checkpoint's 32 x 32" in backbone.notes[-1]
    assert backbone.weights_digest == load(key, tokens="ap").weights_digest


def test_input_size_that_patches_do_not_divide_is_refused_with_the_nearest() -> None:
    options = PreprocessingOptions(input_size=36)
    with pytest.raises(OptionError, match=r"patches of 8 x 8, .* choose 32 x 32 or 40 x 40"):
        load("vit", preprocessing=options)


def test_mae_is_not_masked_and_repeats() -> None:
    backbone = load("mae", tokens="all")
    assert torch.equal(backbone(IMAGES), backbone(IMAGES))
    assert len(backbone.tokens) == 1 + 16


def test_clip_equals_timms_port_with_the_same_weights() -> None:
    state = build("clip").vision_model.state_dict()
    timm_state = {
        "cls_token": state["embeddings.class_embedding"].view(1, 1, -1),
        "pos_embed": state["embeddings.position_embedding.weight"][None],
        "patch_embed.proj.weight": state["embeddings.patch_embedding.weight"],
    }
    norms = {"norm_pre": "pre_layrnorm", "norm": "post_layernorm"}
    for i in range(DEPTH):
        old, new = f"encoder.layers.{i}", f"blocks.{i}"
        norms |= {f"{new}.norm{n}": f"{old}.layer_norm{n}" for n in (1, 2)}
        norms |= {f"{new}.mlp.fc{n}": f"{old}.mlp.fc{n}" for n in (1, 2)}
        norms[f"{new}.attn.proj"] = f"{old}.self_attn.out_proj"
        for kind in ("weight", "bias"):
            qkv = [state[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            timm_state[f"{new}.attn.qkv.{kind}"] = torch.cat(qkv)
    for kind in ("weight", "bias"):
        timm_state |= {f"{new}.{kind}": state[f"{old}.{kind}"] for new, old in norms.items()}
    module = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=24,
        depth=DEPTH,
        num_heads=2,
        mlp_ratio=40 / 24,
        num_classes=0,
        pre_norm=True,
        act_layer=QuickGELU,
        norm_layer=torch.nn.LayerNorm,
    ).eval()
    module.load_state_dict({k: v for k, v in timm_state.items() if k != "patch_embed.proj.bias"})
    with torch.no_grad():
        expected = module.forward_features(normalized())
    got = load("clip", layers="last", tokens="all")(IMAGES)[0].transpose(0, 1)
    np.testing.assert_allclose(got, expected, **TOLERANCE)


def test_clip_projected_equals_image_embeddings() -> None:
    for key in ("clip", "clip_vision"):
        model = build(key)
        with torch.no_grad():
            expected = (
                model.get_image_features(normalized())
                if key == "clip"
                else model(normalized()).image_embeds
            )
        expected = getattr(expected, "pooler_output", expected)
        backbone = load(key, layers="last", tokens="cls", projected=True)
        got = backbone(IMAGES)[0, 0]
        np.testing.assert_allclose(got[:, :16], expected, **TOLERANCE)
        assert not got[:, 16:].any()
        assert backbone.weights_digest != load(key).weights_digest


def test_projected_without_a_projection_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"projected needs a CLIP model .* leave it out"):
        load("vit", projected=True)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_rotary_positions_keep_float32_frequencies_in_half_precision(precision: str) -> None:
    backbone = load("dinov3", tap="block", tokens="ap", precision=precision)
    assert backbone.module.rope_embeddings.inv_freq.dtype == torch.float32
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    model = build("dinov3")
    model.config._attn_implementation = "sdpa"
    half = transformers.DINOv3ViTModel.from_pretrained(folder("dinov3"), dtype=dtype).eval()
    with torch.no_grad():
        expected = half(normalized().to(dtype), output_hidden_states=True).hidden_states[1:]
    expected = torch.stack([x[:, 5:].float().mean(1) for x in expected])
    np.testing.assert_allclose(backbone(IMAGES)[:, 0], expected, rtol=1e-3, atol=1e-3)


def test_final_norm_of_clip_is_applied_to_every_token() -> None:
    model = build("clip")
    states = hidden_states("clip")["block"][-1]
    with torch.no_grad():
        expected = norm_of("clip", model)(torch.from_numpy(states).float())
    got = load("clip", layers="last", tokens="all")(IMAGES)[0].transpose(0, 1)
    np.testing.assert_allclose(got, expected, **TOLERANCE)
