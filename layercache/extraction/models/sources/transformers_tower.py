"""The vision towers of transformers that are ViTs: their classes, and where their parts are.

Names of modules changed between versions of transformers, so every path is a list of alternatives,
of which a model has one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from layercache.errors import BackboneError
from layercache.extraction.models.module_paths import Path, Paths, find_blocks, part
from layercache.extraction.models.sources.transformers_attention import (
    class_attention_of,
    find_attention,
)
from layercache.extraction.models.vit import ClassAttention, ViT


@dataclass(frozen=True, kw_only=True)
class Family:
    """Models of one `model_type`."""

    model_class: str
    """Class of transformers with the tower, without heads."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of its constructor."""
    pooler_norm: bool = False
    """With `use_mean_pooling`, the final norm is in the pooler (an argument of the constructor)."""
    norm_class: str | None = None
    """Class in `architectures` whose checkpoints hold the final norm outside of the tower."""
    projection_class: str | None = None
    """Class with the projection into the space that images share with text."""
    nested: bool = False
    """The tower's configuration is `vision_config` of config.json."""
    norms_tokens: bool = True
    """The forward applies the final norm to every token."""


_NO_POOLER = {"add_pooling_layer": False}
_CLIP: dict[str, Any] = {
    "model_class": "CLIPVisionModel",
    "projection_class": "CLIPVisionModelWithProjection",
    "norms_tokens": False,  # to the class token only
}
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "beit": Family(
            model_class="BeitModel", pooler_norm=True, norm_class="BeitForMaskedImageModeling"
        ),
        "clip": Family(**_CLIP, nested=True),
        "clip_vision_model": Family(**_CLIP),
        "data2vec-vision": Family(model_class="Data2VecVisionModel", pooler_norm=True),
        "deit": Family(model_class="DeiTModel", arguments=_NO_POOLER),
        "dinov2": Family(model_class="Dinov2Model"),
        "dinov2_with_registers": Family(model_class="Dinov2WithRegistersModel"),
        "dinov3_vit": Family(model_class="DINOv3ViTModel"),
        "siglip": Family(model_class="SiglipVisionModel", nested=True),
        "siglip_vision_model": Family(model_class="SiglipVisionModel"),
        "vit": Family(model_class="ViTModel", arguments=_NO_POOLER),
        "vit_mae": Family(model_class="ViTMAEModel"),
        "vit_msn": Family(model_class="ViTMSNModel"),
    }
)
"""`model_type` of config.json -> family."""
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "siglip2": "its images keep their own shapes and sizes (NaFlex): use a SigLIP 2 of a fixed "
        "size (google/siglip2-base-patch16-224 and the like)",
        "siglip2_vision_model": "its images keep their own shapes and sizes (NaFlex): use a "
        "SigLIP 2 of a fixed size (google/siglip2-base-patch16-224 and the like)",
    }
)
"""`model_type` -> why such a ViT cannot be used."""

BLOCKS = ("layers", "encoder.layer", "encoder.layers", "model.layer", "layer")
FINAL_NORM = ("layernorm", "norm", "post_layernorm", "pooler.layernorm")
NORM1 = ("layernorm_before", "norm1", "layer_norm1")
NORM2 = ("layernorm_after", "norm2", "layer_norm2")
ATTENTION = {
    "attention": ("self_attn", "attention"),
    "query": ("self_attn.q_proj", "attention.q_proj", "attention.attention.query"),
    "key": ("self_attn.k_proj", "attention.k_proj", "attention.attention.key"),
    "output": (
        "self_attn.out_proj",
        "attention.o_proj",
        "attention.out_proj",
        "attention.output.dense",
    ),
}
FC1 = ("mlp.fc1", "mlp.up_proj", "mlp.weights_in", "intermediate.dense")
FC2 = ("mlp.fc2", "mlp.down_proj", "mlp.weights_out", "output.dense")
MLP = ("mlp", "output.dense")
GATE = "mlp.gate_proj"
"""Present in a gated MLP with two first linear layers."""
NOT_IN_TENSORS = (
    *("num_attention_heads", "hidden_act", "layer_norm_eps", "rope_theta", "use_mean_pooling"),
)
"""Options of a configuration that change tokens and are in no tensor."""


def family_of(config: Mapping[str, Any], *, name: str, where: object) -> Family:
    """Return the family of a config.json.

    Raises:
        BackboneError: It is no supported ViT.
    """
    model_type = str(config.get("model_type"))
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    supported = f"supported are {', '.join(FAMILIES)}"
    if "architecture" in config and "model_type" not in config:
        address = name.partition(":")[2]
        is_folder = str(where).startswith(address) or address.startswith(("/", ".", "~"))
        kind = "local-dir" if is_folder else "hf-hub"
        raise BackboneError(
            f"{name}: {where} is that of a model of timm: use {kind}:{address} instead"
        )
    if model_type in REFUSED:
        raise BackboneError(f"{name}: {model_type} cannot be used: {REFUSED[model_type]}")
    raise BackboneError(
        f"{name}: expected a ViT's model_type in {where}, got {model_type!r}: {supported}"
    )


def tower_config(family: Family, values: Mapping[str, Any]) -> Any:
    """Return the tower's configuration object, ready to build the tower without its heads.

    Args:
        family: Family of the model.
        values: Contents of config.json.
    """
    import transformers

    own = dict(values.get("vision_config") or {}) if family.nested else dict(values)
    config_class: Any = getattr(transformers, family.model_class).config_class
    config = config_class.from_dict(own)
    if "projection_dim" in values:
        config.projection_dim = values["projection_dim"]
    config.mask_ratio = 0.0  # MAE's: every patch is seen
    config.vision_use_head = False  # SigLIP's attention pooling
    config.use_mask_token = False
    return config


def class_of(family: Family, values: Mapping[str, Any], *, projected: bool = False) -> Any:
    """Return the class to build: the tower's, or one around it that has parts of it.

    Args:
        family: Family of the model.
        values: Contents of config.json.
        projected: The projection is needed, too.
    """
    import transformers

    name = family.model_class
    if projected and family.projection_class:
        name = family.projection_class
    elif family.norm_class in (values.get("architectures") or ()):
        name = family.norm_class or name
    return getattr(transformers, name)


def arguments_of(model_class: Any, family: Family, config: Any) -> dict[str, Any]:
    """Return the arguments of a class's constructor, but for the configuration."""
    if model_class.__name__ != family.model_class:
        return {}
    arguments = dict(family.arguments)
    if family.pooler_norm:
        arguments["add_pooling_layer"] = bool(config.use_mean_pooling)
    return arguments


def describe_tower(
    tower: nn.Module,
    family: Family,
    *,
    grid_size: tuple[int, int],
    input_size: tuple[int, int],
    output_index: int | None,
    has_final_norm: bool = True,
) -> ViT:
    """Return the description of a tower.

    Args:
        tower: The module with the embeddings and blocks.
        family: Its family.
        grid_size: (h, w) patches at the input size.
        input_size: (H, W) of the images.
        output_index: Index of the hidden state in what a block returns, see `block_output_index`.
        has_final_norm: False if the checkpoint had no weights for it.
    """
    config: Any = tower.config
    blocks_path = _blocks_path(tower)
    norm = _final_norm(tower) if has_final_norm else None
    prefix = num_embedded_prefix(tower)
    registers = getattr(config, "num_register_tokens", 0)
    return ViT(
        module=tower,
        forward=forward_of(tower, input_size),
        architecture=architecture_of(tower, family),
        blocks=find_blocks(
            tower,
            blocks_path,
            partial(_block_paths, output_index=output_index),
            width=config.hidden_size,
            class_attention=partial(_class_attention, num_heads=config.num_attention_heads),
        ),
        blocks_path=blocks_path,
        width=config.hidden_size,
        final_norm=norm,
        norm_in_forward=family.norms_tokens and norm is not part(tower, "pooler.layernorm"),
        num_prefix_tokens=prefix + registers,
        class_token=0 if prefix else None,
        num_registers=registers,
        grid_size=grid_size,
    )


def tower_of(model: nn.Module) -> nn.Module:
    """Return the module with the embeddings and blocks: the model itself or a part of it.

    BEiT's final norm outside of the tower becomes the tower's.
    """
    tower: Any = getattr(model, "vision_model", None) or getattr(model, "beit", None) or model
    if tower is not model and isinstance(getattr(tower, "layernorm", None), nn.Identity):
        tower.layernorm = getattr(model, "layernorm", tower.layernorm)
    return tower  # type: ignore[no-any-return]


def native_size(tower: nn.Module) -> tuple[int, int]:
    """Return the (H, W) of the images that the positions are for."""
    return _pair(tower.config.image_size)  # type: ignore[union-attr]


def patch_size(tower: nn.Module) -> tuple[int, int]:
    """Return the (height, width) of a patch in pixels."""
    return _pair(tower.config.patch_size)  # type: ignore[union-attr]


def forward_of(tower: nn.Module, input_size: tuple[int, int]) -> Callable[[Tensor], object]:
    """Return what runs a tower on images (H, W)."""
    parameters = inspect.signature(tower.embeddings.forward).parameters  # type: ignore[union-attr]
    if input_size == native_size(tower) or "interpolate_pos_encoding" not in parameters:
        return tower
    return partial(tower, interpolate_pos_encoding=True)


def block_output_index(tower: nn.Module, input_size: tuple[int, int]) -> int | None:
    """Return 0 if blocks return a tuple, in this version of transformers, else None.

    Args:
        tower: A tower of one block, which is run on one image.
        input_size: (H, W) of the images.

    Raises:
        ValueError: The tower cannot run at this size; or another error of its forward.
    """
    outputs: list[Any] = []
    block: nn.Module = part(tower, _blocks_path(tower))[0]
    handle = block.register_forward_hook(lambda module, args, output: outputs.append(output))
    with torch.no_grad():
        forward_of(tower, input_size)(torch.zeros(1, 3, *input_size))
    handle.remove()
    return 0 if isinstance(outputs[0], tuple) else None


def architecture_of(tower: nn.Module, family: Family) -> str:
    """Return the class with the options that are in no tensor: "ViTModel(hidden_act='gelu', …)"."""
    config: Any = tower.config
    options = {key: getattr(config, key) for key in NOT_IN_TENSORS if hasattr(config, key)}
    listed = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"transformers {family.model_class}({listed})"


def num_embedded_prefix(tower: nn.Module) -> int:
    """Return the number of prefix tokens with a position: class and distillation token."""
    tokens = ("cls_token", "class_embedding", "distillation_token")
    return sum(hasattr(tower.embeddings, token) for token in tokens)


def _block_paths(block: nn.Module, *, output_index: int | None) -> Paths:
    gated = part(block, GATE) is not None
    fc2 = _first_path(block, FC2)
    attention = _first_path(block, ATTENTION["attention"])
    return Paths(
        # read as the attention's input, when the attention's weights are known too
        norm1=Path(attention, is_input=True) if attention and _first_path(block, NORM1) else None,
        attn=_first_path(block, ATTENTION["output"]),
        norm2=_first_path(block, NORM2),
        fc1=None if gated else _first_path(block, FC1),
        act=Path(fc2, is_input=True) if fc2 else None,
        fc2=fc2,
        mlp=_first_path(block, MLP),
        output_index=output_index,
    )


def _class_attention(block: nn.Module, *, num_heads: int) -> Callable[[int], ClassAttention] | None:
    parts = find_attention(block, **ATTENTION)
    return None if parts is None else class_attention_of(parts, num_heads=num_heads)


def _final_norm(tower: nn.Module) -> nn.Module | None:
    norms = (part(tower, path) for path in FINAL_NORM)
    return next(
        (n for n in norms if isinstance(n, nn.Module) and not isinstance(n, nn.Identity)), None
    )


def _blocks_path(tower: nn.Module) -> str:
    path = _first_path(tower, BLOCKS)
    if path is None:
        raise BackboneError(
            f"{type(tower).__name__}: expected its blocks at {', '.join(BLOCKS)}: this version of "
            "transformers has them elsewhere, install another one"
        )
    return path


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _first_path(module: nn.Module, paths: tuple[str, ...]) -> str | None:
    return next((path for path in paths if isinstance(part(module, path), nn.Module)), None)
