"""Tokens of every family at every tap, compared with hooks on plain timm modules in float64."""

from __future__ import annotations

import warnings
from itertools import combinations
from typing import Any, get_args

import numpy as np
import pytest
import torch
from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from torch import nn

from layercache.cache.format.cache_spec import Tap
from layercache.errors import BackboneError
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from tests.extraction.models.families import (
    FAMILIES,
    IMAGES,
    checkpoint,
    class_attention,
    hidden_states,
)

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


def kinds(name: str) -> tuple[str, ...]:
    family = FAMILIES[name]
    return (
        *(("cls", "attn") if family.class_token else ()),
        *(("reg",) if family.registers else ()),
        *("ap", "std", "max"),
    )


def pooled(name: str, kind: str, tap: str) -> list[np.ndarray]:
    """Return every layer's token of a kind, (B, D) in float64."""
    family, maps = FAMILIES[name], hidden_states(name)[tap]
    patches = [x[:, family.prefix :] for x in maps]
    if kind == "attn":
        blocks = class_attention(name)
        # norm2 of layer l is in block l + 1; the final norm follows the last block
        blocks = [*blocks[1:], blocks[-1]] if tap == "norm2" else blocks
        weights = [block[:, family.prefix :, None] for block in blocks]
        return [(w * x).sum(1) / w.sum(1) for w, x in zip(weights, patches, strict=True)]
    return {
        "cls": lambda: [x[:, 0] for x in maps],
        "reg": lambda: [
            x[:, family.prefix - family.registers : family.prefix].mean(1) for x in maps
        ],
        "ap": lambda: [x.mean(1) for x in patches],
        "std": lambda: [x.std(1) for x in patches],
        "max": lambda: [x.max(1) for x in patches],
    }[kind]()


@pytest.mark.parametrize(
    ("name", "tap"),
    [
        (name, tap)
        for name in FAMILIES
        for tap in get_args(Tap)
        if (name, tap) != ("tiny_eva02", "fc1")
    ],
)
def test_backbone_tokens_equal_hooks_on_timm_at_every_layer(name: str, tap: Tap) -> None:
    backbone = load_encoder(
        name, weights=checkpoint(name), tap=tap, tokens=kinds(name), storage_dtype="float32"
    )
    expected = np.stack([pooled(name, kind, tap) for kind in kinds(name)], 1)
    got = backbone(IMAGES)
    assert got.shape == (4, len(kinds(name)), 3, backbone.width)
    assert (backbone.width != 24) == (tap in ("fc1", "act"))
    np.testing.assert_allclose(got, expected, **TOLERANCE)


def state_at(name: str, module: nn.Module, grid: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Return the state of the 4 x 4 checkpoint with its positions resampled by timm's functions."""
    state: dict[str, torch.Tensor] = torch.load(checkpoint(name), weights_only=True)
    for key, wanted in module.state_dict().items():
        if key == "pos_embed" and key in state:
            embedded_prefix = 0 if getattr(module, "no_embed_class", False) else None
            prefix = FAMILIES[name].prefix if embedded_prefix is None else embedded_prefix
            state[key] = resample_abs_pos_embed(
                state[key], new_size=list(grid), old_size=[4, 4], num_prefix_tokens=prefix
            )
        if key.endswith("relative_position_bias_table"):
            with warnings.catch_warnings(action="ignore"):  # of torch, about timm's style
                state[key] = resize_rel_pos_bias_table(
                    state[key], new_window_size=grid, new_bias_shape=wanted.shape
                )
    return state


@pytest.mark.parametrize("name", list(FAMILIES))
def test_backbone_at_another_size_equals_timm_built_at_that_size(name: str) -> None:
    size, family = (40, 48), FAMILIES[name]
    module: Any = family.build(img_size=size)  # type: ignore[call-arg]
    module.load_state_dict(state_at(name, module, (5, 6)))
    module.eval()
    images = torch.randint(
        0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    seen: list[torch.Tensor] = []
    module.blocks[-1].register_forward_hook(lambda m, args, out: seen.append(out))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (family.mean, family.std))
    with torch.no_grad():
        module.forward_features((images.float() / 255 - mean) / std)

    backbone = load_encoder(
        name,
        weights=checkpoint(name),
        tap="block",
        layers="last",
        tokens=(*(("cls",) if family.class_token else ()), "ap", "grid:5"),
        storage_dtype="float32",
        preprocessing=PreprocessingOptions(input_size=size),
    )
    assert backbone.preprocessing.input_size == size
    positions = (
        "rotary positions of the new grid"
        if name in ("tiny_dinov3", "tiny_rope")
        else "positions resampled"
    )
    assert f"input 40 x 48 instead of the checkpoint's 32 x 32: {positions}" in backbone.notes
    expected = [seen[0][:, 0]] * family.class_token + [seen[0][:, family.prefix :].mean(1)]
    np.testing.assert_allclose(backbone(images)[0, : len(expected)], expected, **TOLERANCE)
    usual = load_encoder(name, weights=checkpoint(name), tokens=kinds(name))
    assert backbone.weights_digest == usual.weights_digest


@pytest.mark.parametrize("name", list(FAMILIES))
def test_ap_with_a_wrong_prefix_exceeds_the_tolerance(name: str) -> None:
    """Negative control: one prefix token more or less in the mean exceeds the tolerance."""
    prefix = FAMILIES[name].prefix
    for tap, maps in hidden_states(name).items():
        right = np.array([x[:, prefix:].mean(1) for x in maps])
        for other in {prefix + 1, max(prefix - 1, 0)} - {prefix}:
            wrong = np.array([x[:, other:].mean(1) for x in maps])
            assert not np.allclose(right, wrong, **TOLERANCE), (tap, other)


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].class_token])
def test_tokens_of_another_kind_or_blocks_attention_exceed_the_tolerance(name: str) -> None:
    """Negative control: the kinds differ, and so does the attention of neighbouring blocks."""
    tokens = {kind: np.array(pooled(name, kind, "block")) for kind in kinds(name)}
    for one, other in combinations(tokens, 2):
        assert not np.allclose(tokens[one], tokens[other], **TOLERANCE), (one, other)
    prefix = FAMILIES[name].prefix
    weights = np.array(class_attention(name))[:, :, prefix:]
    patches = hidden_states(name)["block"][1][:, prefix:]
    by_block = [(w[..., None] * patches).sum(1) / w.sum(1)[:, None] for w in weights]
    for one, other in combinations(by_block, 2):
        assert not np.allclose(one, other, **TOLERANCE)


def test_load_backbone_fc1_of_a_swiglu_with_two_first_layers_raises() -> None:
    with pytest.raises(
        BackboneError,
        match="tiny_eva02: tap fc1 expects blocks whose MLP has one first linear layer, got "
        "EvaBlock with SwiGLU: use tap 'act'",
    ):
        load_encoder("tiny_eva02", weights=checkpoint("tiny_eva02"), tap="fc1")


@pytest.mark.parametrize("name", ["tiny_vit", "tiny_uni2"])
def test_hidden_states_of_another_tap_or_layer_exceed_the_tolerance(name: str) -> None:
    """Negative control: tokens of another tap or of the next layer exceed the tolerance."""
    maps = hidden_states(name)
    for one, other in combinations(maps, 2):
        if maps[one][0].shape == maps[other][0].shape:
            assert not np.allclose(maps[one], maps[other], **TOLERANCE), (one, other)
    for layers in maps.values():
        assert not np.allclose(layers[1:], layers[:-1], **TOLERANCE)


@pytest.mark.parametrize(
    "name", [name for name, family in FAMILIES.items() if not family.class_token]
)
def test_load_backbone_cls_of_a_model_without_class_token_raises(name: str) -> None:
    prefix = FAMILIES[name].prefix
    with pytest.raises(
        BackboneError,
        match=rf"tokens 'cls': this model has no class token \({prefix} prefix tokens and 4 x 4 "
        r"patches\): use tokens 'ap'",
    ):
        load_encoder(name, weights=checkpoint(name))
    with pytest.raises(BackboneError, match="tokens 'attn': this model has no class token"):
        load_encoder(name, weights=checkpoint(name), tokens="ap+attn")
