"""Refusals of the class token's attention; test_families.py compares its values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers import DiffAttention
from timm.models.vision_transformer import (
    Block,
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
    VisionTransformer,
)
from torch import nn

from layercache.errors import BackboneError
from layercache.extraction.models.class_attention import check_class_attention
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.sources.timm import timm_vit
from tests.extraction.models.families import IMAGES, SMALL, checkpoint


@pytest.mark.parametrize(
    ("block_fn", "options", "got"),
    [
        (ParallelScalingBlock, {}, "ParallelScalingBlock: leave"),
        (ParallelThingsBlock, {}, "ParallelThingsBlock: leave"),
        (Block, {"attn_layer": DiffAttention}, "Block with DiffAttention: leave"),
    ],
)
def test_check_class_attention_of_a_block_without_one_softmax_attention_raises(
    block_fn: type[nn.Module], options: dict[str, Any], got: str
) -> None:
    module: Any = VisionTransformer(block_fn=block_fn, **options, **SMALL)
    module.pretrained_cfg = {"architecture": "it"}
    with pytest.raises(
        BackboneError,
        match=f"it: tokens 'attn' expect blocks with one softmax attention, got {got} 'attn' out",
    ):
        check_class_attention(timm_vit(module).blocks[0], architecture="it")


def test_check_class_attention_accepts_post_norm() -> None:
    module: Any = VisionTransformer(block_fn=ResPostBlock, **SMALL)
    module.pretrained_cfg = {"architecture": "it"}
    check_class_attention(timm_vit(module).blocks[0], architecture="it")


def test_class_attention_with_some_layers_equals_all_layers() -> None:
    """Layers 3 and 4 of norm2 share the attention of the last block."""
    options: dict[str, Any] = {"weights": checkpoint("tiny_vit"), "storage_dtype": "float32"}
    some = load_encoder("tiny_vit", tokens="attn", layers=(3, 4), **options)
    everything = load_encoder("tiny_vit", tokens="cls+attn", **options)
    assert torch.equal(some(IMAGES)[:, 0], everything(IMAGES)[2:, 1])


@pytest.mark.parametrize("name", ["tiny_vit", "tiny_beit", "tiny_rope"])
def test_class_attention_in_bf16_is_close_to_float32(name: str) -> None:
    options: dict[str, Any] = {"weights": checkpoint(name), "storage_dtype": "float32"}
    exact, half = (
        load_encoder(name, tokens="attn+std+max", precision=precision, **options)(IMAGES)
        for precision in ("fp32", "bf16")
    )
    assert 0 < (half - exact).abs().mean() / exact.abs().mean() < 0.05
