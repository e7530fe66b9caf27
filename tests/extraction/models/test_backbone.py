"""load_encoder, apart from the values of CLS and AP, which test_families.py compares."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from layercache.errors import BackboneError, OptionError, UnknownNameError
from layercache.extraction.models import vit_nano
from layercache.extraction.models.backbone import Backbone
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.weights.checkpoint import digest_weights
from tests.extraction.models.families import IMAGES, checkpoint, hidden_states, random_state


def load(name: str = "tiny_vit", **options: Any) -> Backbone:
    return load_encoder(name, weights=checkpoint(name), **({"storage_dtype": "float32"} | options))


def test_backbone_has_every_attribute_of_a_cache_spec() -> None:
    backbone = load(tokens="cls+grid:2", tap="block", layers="mid-last")
    assert (backbone.name, backbone.architecture, backbone.depth, backbone.width) == (
        "tiny_vit",
        "tiny_vit",
        4,
        24,
    )
    assert (backbone.tap, backbone.layers) == ("block", (2, 4))
    assert backbone.tokens == ("cls", "grid:2/0", "grid:2/1", "grid:2/2", "grid:2/3")
    assert (backbone.precision, backbone.storage_dtype, backbone.projected, backbone.notes) == (
        "fp32",
        "float32",
        False,
        (),
    )
    assert len(backbone.weights_digest) == 64
    json.dumps(backbone.preprocessing.to_json())


def test_backbone_is_frozen() -> None:
    backbone = load()
    assert not backbone.module.training
    assert not any(p.requires_grad for p in backbone.module.parameters())
    assert not backbone(IMAGES).requires_grad


def test_backbone_with_float16_storage_rounds_float32() -> None:
    exact, half = load()(IMAGES), load(storage_dtype="float16")(IMAGES)
    assert half.dtype == torch.float16
    assert torch.equal(half, exact.half())


def test_backbone_runs_every_block_once_for_all_layers_and_tokens() -> None:
    backbone, calls = load(tokens="cls+ap+grid:2"), []
    for part in (backbone.module.patch_embed, *backbone.module.blocks):  # type: ignore[misc]
        part.register_forward_hook(lambda m, args, out: calls.append(m))
    backbone(IMAGES)
    assert len(calls) == len(set(calls)) == 5


@pytest.mark.parametrize(
    ("tap", "layers", "blocks"),
    [
        ("norm2", (1, 3), 4),
        ("norm2", (2,), 3),
        ("block", (1, 3), 3),
        ("block-norm", (2,), 2),
        ("act", (2,), 2),
    ],
)
def test_backbone_with_some_layers_equals_all_layers_and_drops_later_blocks(
    tap: Any, layers: tuple[int, ...], blocks: int
) -> None:
    some = load(layers=layers, tap=tap)
    assert (some.layers, some.depth) == (layers, 4)
    assert len(some.module.blocks) == blocks  # type: ignore[arg-type]
    assert torch.equal(some(IMAGES), load(tap=tap)(IMAGES)[[layer - 1 for layer in layers]])
    assert (
        some.weights_digest == load(tap=tap).weights_digest
    )  # the same weights, whichever layers are read


def test_backbone_with_all_tokens_equals_hidden_states_without_registers() -> None:
    got = load("tiny_dinov2_reg4", tokens="all")(IMAGES)
    expected = np.array(hidden_states("tiny_dinov2_reg4")["norm2"])[:, :, [0, *range(5, 21)]]
    np.testing.assert_allclose(got, expected.transpose(0, 2, 1, 3), rtol=1e-4, atol=2e-5)


def test_backbone_projected_maps_the_last_layer_only() -> None:
    """CLS is projected, AP is the mean of the projected patches, other layers are unchanged."""
    plain, projected = load("tiny_clip"), load("tiny_clip", projected=True)
    state = random_state("tiny_clip")
    final = (
        hidden_states("tiny_clip")["norm2"][-1] @ state["head.weight"].double().numpy().T
        + state["head.bias"].double().numpy()
    )
    got = projected(IMAGES)
    np.testing.assert_allclose(got[-1, 0, :, :16], final[:, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[-1, 1, :, :16], final[:, 1:].mean(1), rtol=1e-4, atol=1e-4)
    assert (got[-1, :, :, 16:] == 0).all()
    assert torch.equal(got[:-1], plain(IMAGES)[:-1])
    assert (
        projected.weights_digest != plain.weights_digest
    )  # the projection's weights count where they are used
    assert not np.allclose(got[-1, 0, :, :16], final[:, 1:].mean(1), rtol=1e-4, atol=1e-4)


def test_load_backbone_projected_of_other_models_raises() -> None:
    with pytest.raises(
        BackboneError,
        match="tiny_vit: projected needs a CLIP model with its projection into the joint space",
    ):
        load(projected=True)


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.03), ("fp16", 0.004)])
def test_backbone_in_half_precision_is_close_to_float32(precision: Any, bound: float) -> None:
    """Error over the tokens' scale; a control shows that another image is much further away."""
    exact, half = load()(IMAGES), load(precision=precision)(IMAGES)
    scale = exact.abs().mean()
    assert half.dtype == torch.float32
    assert 0 < (half - exact).abs().mean() / scale < bound
    assert (exact.roll(1, 2) - exact).abs().mean() / scale > 4 * bound


@pytest.mark.parametrize("name", ["tiny_dinov3", "tiny_beit", "tiny_siglip", "tiny_eva02"])
def test_backbone_of_other_families_in_bf16_is_close_to_float32(name: str) -> None:
    exact, half = load(name, tokens="ap")(IMAGES), load(name, tokens="ap", precision="bf16")(IMAGES)
    assert (half - exact).abs().mean() / exact.abs().mean() < 0.05


@pytest.mark.slow
def test_backbone_compiled_equals_eager() -> None:
    torch.testing.assert_close(load(compile=True)(IMAGES), load()(IMAGES), rtol=1e-4, atol=1e-4)


def test_backbone_called_twice_gives_equal_tokens() -> None:
    assert torch.equal(load()(IMAGES), load()(IMAGES))


def test_backbone_with_another_dtype_or_size_raises() -> None:
    backbone = load()
    with pytest.raises(
        OptionError,
        match=r"tiny_vit: expected uint8 images \(B, 3, 32, 32\), got torch.float32 \(3, 3, 32, "
        r"32\)",
    ):
        backbone(IMAGES.float())
    with pytest.raises(OptionError, match=r"got torch.uint8 \(3, 3, 16, 32\)"):
        backbone(IMAGES[:, :, :16])


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"precision": "int8"},
            OptionError,
            "precision: expected fp32 or bf16 or fp16, got 'int8'",
        ),
        (
            {"storage_dtype": "bfloat16"},
            OptionError,
            "storage_dtype: expected float16 or float32, got 'bfloat16'",
        ),
        ({"tap": "norm3"}, UnknownNameError, "unknown tap 'norm3'"),
        (
            {"tap": "act", "projected": True},
            OptionError,
            "projected maps the last layer's hidden state, which tap 'act' does not read",
        ),
        (
            {"tokens": "cls+std", "projected": True},
            OptionError,
            "projected maps tokens and their means, not tokens 'std'",
        ),
        ({"layers": "5"}, OptionError, "layers: expected numbers from 1 to 4"),
        ({"tokens": "cls+grid:9"}, OptionError, "K must be 1 to 4"),
        (
            {"preprocessing": PreprocessingOptions(input_size=(32, 36))},
            OptionError,
            "input_size: tiny_vit has patches of 8 x 8, which do not divide 32 x 36: choose "
            "32 x 32 or 32 x 40",
        ),
        (
            {"preprocessing": PreprocessingOptions(input_size=3)},
            OptionError,
            "do not divide 3 x 3: choose 8 x 8$",
        ),
    ],
)
def test_load_backbone_with_an_invalid_option_raises(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        load(**options)


def test_load_backbone_of_an_unknown_model_suggests_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown model 'dinov2_b16': did you mean .*dinov2_b14"
    ):
        load_encoder("dinov2_b16")
    with pytest.raises(
        UnknownNameError,
        match=r"unknown model 'vit_base_patch16_223': did you mean vit_base_patch16_224",
    ):
        load_encoder("vit_base_patch16_223")
    with pytest.raises(
        UnknownNameError,
        match=r"unknown model 'vit_base_patch16_224.augreg3_in21k': did you mean "
        r"vit_base_patch16_224.augreg",
    ):
        load_encoder("vit_base_patch16_224.augreg3_in21k")


def test_load_backbone_vit_nano_reads_the_bundled_file_as_float32() -> None:
    backbone = load_encoder("vit_nano")
    stored = load_file(vit_nano.weights_path())
    assert {v.dtype for v in stored.values()} == {torch.float16}
    assert backbone.weights_digest == digest_weights(
        {k: v.float() for k, v in stored.items() if not k.startswith("head.")}
    )
    assert (backbone.depth, backbone.width, backbone.architecture) == (12, 96, "vit_nano_patch4_28")
    assert backbone(torch.zeros(2, 3, 28, 28, dtype=torch.uint8)).shape == (12, 2, 2, 96)
