"""Tap points of timm's architectures, and architectures that have none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers import Mlp
from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import (
    Block,
    DiffParallelScalingBlock,
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
    VisionTransformer,
)
from torch import nn

from layercache.errors import BackboneError, UnknownNameError
from layercache.extraction.models.sources.timm import timm_vit
from layercache.extraction.models.taps import find_taps
from layercache.extraction.models.vit import ViT
from tests.extraction.models.families import SMALL


def tapped_modules(
    module: nn.Module, tap: Any, layers: tuple[int, ...] = (1, 2, 3, 4)
) -> list[nn.Module]:
    return [point.place.module for point in find_taps(described(module), tap=tap, layers=layers)]


def described(module: Any) -> ViT:
    module.pretrained_cfg = {"architecture": "it"}
    return timm_vit(module)


BLOCK_TYPES = [
    Block,
    EvaBlock,
    ParallelScalingBlock,
    DiffParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
    EvaBlockPostNorm,
]


def model_of(block_fn: type[nn.Module]) -> Any:
    if block_fn.__name__.startswith("Eva"):
        return Eva(use_post_norm=block_fn is EvaBlockPostNorm, **SMALL)
    return VisionTransformer(block_fn=block_fn, **SMALL)


def test_find_taps_norm2_skips_block_0_and_ends_with_the_final_norm() -> None:
    module: Any = VisionTransformer(**SMALL)
    assert tapped_modules(module, "norm2") == [
        module.blocks[1].norm2,
        module.blocks[2].norm2,
        module.blocks[3].norm2,
        module.norm,
    ]


@pytest.mark.parametrize("block_fn", BLOCK_TYPES)
def test_find_taps_norm2_of_a_block_whose_mlp_does_not_read_it_raises(
    block_fn: type[nn.Module],
) -> None:
    """A block qualifies if running it shows that the MLP gets the output of norm2."""
    module = model_of(block_fn)
    block, seen = module.blocks[2], {}
    assert type(block) is block_fn
    if hasattr(block, "norm2"):
        block.norm2.register_forward_hook(lambda m, args, out: seen.update(norm2_output=out))
        block.mlp.register_forward_pre_hook(lambda m, args: seen.update(mlp_input=args[0]))
    module.eval().forward_features(torch.zeros(1, 3, 32, 32))
    if "norm2_output" in seen and seen["norm2_output"] is seen["mlp_input"]:
        assert tapped_modules(module, "norm2")[1] is block.norm2
    else:
        with pytest.raises(
            BackboneError,
            match=f"it: tap norm2 expects blocks that normalise .* got {block_fn.__name__}: use "
            "tap 'block'",
        ):
            tapped_modules(module, "norm2")
    assert tapped_modules(module, "block") == list(module.blocks)


@pytest.mark.parametrize("block_fn", BLOCK_TYPES)
def test_find_taps_norm1_of_a_block_whose_attention_does_not_read_it_raises(
    block_fn: type[nn.Module],
) -> None:
    """A block qualifies if running it shows that the attention gets the output of norm1."""
    module = model_of(block_fn)
    block, seen = module.blocks[3], {}
    if hasattr(block, "norm1"):
        block.norm1.register_forward_hook(lambda m, args, out: seen.update(norm1_output=out))
        block.attn.register_forward_pre_hook(lambda m, args: seen.update(attn_input=args[0]))
    module.eval().forward_features(torch.zeros(1, 3, 32, 32))
    if "norm1_output" in seen and seen["norm1_output"] is seen["attn_input"]:
        points = find_taps(described(module), tap="norm1", layers=(1, 2, 3, 4))
        assert [point.place.module for point in points] == [block.attn for block in module.blocks]
        assert all(point.place.is_input for point in points)
    else:
        with pytest.raises(
            BackboneError,
            match=f"it: tap norm1 expects blocks that normalise in norm1 .* got "
            f"{block_fn.__name__}.*: use tap 'block'",
        ):
            tapped_modules(module, "norm1")


@pytest.mark.parametrize("tap", ["attn", "fc1", "act", "mlp"])
@pytest.mark.parametrize("block_fn", BLOCK_TYPES)
def test_find_taps_inside_a_fused_or_parallel_block_raises(
    block_fn: type[nn.Module], tap: str
) -> None:
    """Blocks of timm with one attention and one MLP have these taps, also with post-norm."""
    module = model_of(block_fn)
    if "Parallel" not in block_fn.__name__:
        parts = {"attn": "attn", "fc1": "mlp.fc1", "act": "mlp.drop1", "mlp": "mlp"}
        expected = [block.get_submodule(parts[tap]) for block in module.blocks]
        assert tapped_modules(module, tap) == expected
        return
    with pytest.raises(
        BackboneError, match=f"it: tap {tap} expects blocks .*, got {block_fn.__name__}: use tap"
    ):
        tapped_modules(module, tap)


def test_find_taps_of_layers_with_different_widths_raises() -> None:
    module: Any = VisionTransformer(**SMALL)
    module.blocks[2].mlp = Mlp(24, 48)
    with pytest.raises(BackboneError, match=r"it: tap act expects one width .* got 48, 96: choose"):
        tapped_modules(module, "act")
    assert len(tapped_modules(module, "act", (1, 2, 4))) == 3


def test_find_taps_without_a_final_norm_raises_only_where_it_is_needed() -> None:
    module: Any = VisionTransformer(final_norm=False, **SMALL)
    assert tapped_modules(module, "norm2", (1, 2, 3)) == [module.blocks[i].norm2 for i in (1, 2, 3)]
    for tap in ("norm2", "block-norm"):
        with pytest.raises(
            BackboneError,
            match=f"it: tap {tap} needs a final norm for layer 4, and this architecture has "
            "none: use tap 'block'",
        ):
            tapped_modules(module, tap, (4,))


def test_find_taps_of_an_unknown_tap_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown tap 'norm3': did you mean norm2"):
        tapped_modules(VisionTransformer(**SMALL), "norm3")
