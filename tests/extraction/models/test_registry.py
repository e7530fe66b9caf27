"""The registry's figures compared with timm's own models, built on the meta device."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.layers import QuickGELU

from layercache.extraction.models import vit_nano
from layercache.extraction.models.registry import MODELS, ModelInfo
from layercache.extraction.models.sources.timm_attention import class_attention_of


def figures(module: Any) -> tuple[float, int, int, tuple[int, ...], bool]:
    """Parameters in millions, width, blocks, patch size, class token; without the classifier."""
    outside = ("head.", "head_dist.", "attn_pool.")
    params = sum(p.numel() for name, p in module.named_parameters() if not name.startswith(outside))
    return (
        round(params / 1e6, 2),
        module.embed_dim,
        len(module.blocks),
        module.patch_embed.patch_size,
        module.cls_token is not None,
    )


@pytest.mark.parametrize("info", list(MODELS.values()), ids=list(MODELS))
def test_registry_figures_equal_timms(info: ModelInfo) -> None:
    with torch.device("meta"):
        module = (
            vit_nano.create_vit_nano()
            if info.name == "vit_nano"
            else timm.create_model(info.architecture, img_size=info.input_size)
        )
    assert figures(module) == (info.params_m, info.width, info.depth, (info.patch_size,) * 2, True)
    assert module.patch_embed.img_size == (info.input_size,) * 2
    assert info.class_attention == all(map(class_attention_of, module.blocks))
    assert info.registers == (module.reg_token is not None)


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("clip_")])
def test_registry_clip_models_have_quickgelu(name: str) -> None:
    with torch.device("meta"):
        module: Any = timm.create_model(MODELS[name].architecture)
        plain: Any = timm.create_model(MODELS[name].architecture.replace("_quickgelu", ""))
    assert isinstance(module.blocks[0].mlp.act, QuickGELU)
    assert not isinstance(
        plain.blocks[0].mlp.act, QuickGELU
    )  # the same name without it is another function
    assert timm.get_pretrained_cfg(MODELS[name].architecture).hf_hub_id == "timm/" + MODELS[
        name
    ].architecture.replace("_quickgelu", "")


@pytest.mark.parametrize("info", [i for i in MODELS.values() if i.name != "vit_nano"], ids=str)
def test_registry_transform_differs_from_timms_metadata_only_as_listed(info: ModelInfo) -> None:
    assert info.transform is not None
    timms = resolve_data_config(
        None, pretrained_cfg=timm.get_pretrained_cfg(info.architecture).to_dict()
    )
    assert info.timm_crop_pct == timms["crop_pct"]
    assert (info.transform.interpolation, info.transform.crop_mode) == (
        timms["interpolation"],
        timms["crop_mode"],
    )


def test_registry_architectures_are_checkpoints_of_timm() -> None:
    known = set(timm.list_models(pretrained=True)) | {vit_nano.ARCHITECTURE}
    assert {info.architecture for info in MODELS.values()} <= known
    assert "vit_base_patch16_clip_quickgelu_224.closedai" not in known


def test_registry_import_loads_neither_torch_nor_timm() -> None:
    code = (
        "import sys, layercache.extraction.models.registry; print(sorted({'torch', 'timm', "
        "'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
