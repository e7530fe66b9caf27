"""timm's ViTs, by short name, timm name or address, with weights and preprocessing."""

from __future__ import annotations

import difflib
import warnings
from contextlib import nullcontext
from typing import Any

import timm
import torch
from timm.layers import GluMlp, Mlp, SwiGLU
from timm.models import get_arch_name, is_model, model_entrypoint
from torch import nn

from layercache.errors import BackboneError, UnknownNameError
from layercache.extraction.models.module_paths import Path, Paths, find_blocks
from layercache.extraction.models.preprocessing.data_config import (
    resolve_preprocessing,
    timm_transform,
)
from layercache.extraction.models.preprocessing.input_size import grid_at
from layercache.extraction.models.preprocessing.transform import format_size
from layercache.extraction.models.projection import check_has_projection, load_projection
from layercache.extraction.models.registry import MODELS, ModelInfo
from layercache.extraction.models.sources.timm_address import (
    address_checkpoint,
    create_from_address,
    is_address,
)
from layercache.extraction.models.sources.timm_attention import class_attention_of
from layercache.extraction.models.vit import Check, LoadedModel, LoadRequest, ViT
from layercache.extraction.models.vit_nano import create_vit_nano, weights_path
from layercache.extraction.models.weights.checkpoint import (
    SkipInit,
    declared_architecture,
    digest_weights,
    load_weights,
    read_checkpoint,
    remove_head,
)
from layercache.extraction.models.weights.download import download_model

VIT_MODULES = ("vision_transformer", "deit", "eva", "beit")
"""Modules of timm whose models are ViTs."""
VIT_ATTRIBUTES = ("blocks", "patch_embed", "forward_features", "num_prefix_tokens")
"""Attributes that a timm model must have to be used as a ViT."""


def load(name: str, request: LoadRequest, *, check: Check) -> LoadedModel:
    """Load a model with its own weights, or those of a file; see `sources.load_model`.

    Args:
        name: A short name of MODELS, timm's name of a ViT, or its address ("hf-hub:ORG/NAME",
            "local-dir:PATH").
        request: What to load.
        check: Called with the bare architecture.
    """
    info, weights, offline = MODELS.get(name), request.weights, request.offline
    module: Any
    if is_address(name):
        with SkipInit():
            module = create_from_address(name, offline=offline)
        _check_is_vit(module, name=name)
        timm_module = type(module).__module__
    elif name == "vit_nano":
        module = create_vit_nano()
        weights = weights or weights_path()
        timm_module = "timm.models.vision_transformer"
    else:
        timm_name = info.architecture if info else name
        timm_module = _defining_module(timm_name)
        with torch.device("meta") if weights is None else nullcontext():
            module = _create(timm_name)
        _check_is_vit(module, name=name)
    if request.projected:
        check_has_projection(module, name=name)
    resolved, notes = resolve_preprocessing(
        module.pretrained_cfg, info, request.preprocessing, paper_compat=request.paper_compat
    )
    grid_size = _grid_size(module, resolved.input_size, name=name)
    check(timm_vit(module, grid_size=grid_size))
    projection = None
    if is_address(name):
        weights = weights or address_checkpoint(name, offline=offline)
    elif weights is None:
        module = download_model(timm_name, name=name, offline=offline)
        projection = load_projection(module, None, name=name) if request.projected else None
    remove_head(module)
    config = module.pretrained_cfg
    notes += _timm_notes(config)
    if weights is not None:
        state, left_out = load_weights(
            module,
            read_checkpoint(weights),
            source=f"weights {weights} for {name}",
            timm_module=timm_module,
        )
        notes += left_out
        if request.projected:
            projection = load_projection(module, state, name=name)
        # the tensors fit, but an activation, for example, is in no tensor
        declared = declared_architecture(weights)
        if declared not in (None, config["architecture"]):
            notes += (f"{weights} declares {declared}, loaded as {config['architecture']}",)
    digested = dict(module.state_dict())
    if projection is not None:
        digested |= {f"head.{key}": value for key, value in projection.state_dict().items()}
    weights_digest = digest_weights(digested)  # before positions are resampled

    notes += _set_input_size(module, resolved.input_size)
    module = module.eval().requires_grad_(False)
    return LoadedModel(
        vit=timm_vit(module, grid_size=grid_size),
        projection=projection,
        weights_digest=weights_digest,
        preprocessing=resolved,
        notes=notes,
    )


def timm_vit(module: Any, *, grid_size: tuple[int, int] | None = None) -> ViT:
    """Return the description of a ViT of timm.

    Args:
        module: The module, with or without weights and head.
        grid_size: (h, w) patches at the input size; by default the module's own.
    """
    registers = getattr(module, "reg_token", None)
    final_norm = _final_norm(module)
    return ViT(
        module=module,
        forward=module.forward_features,
        architecture=module.pretrained_cfg["architecture"],
        blocks=find_blocks(
            module,
            "blocks",
            _block_paths,
            width=module.embed_dim,
            class_attention=class_attention_of,
        ),
        blocks_path="blocks",
        width=module.embed_dim,
        final_norm=final_norm,
        norm_in_forward=final_norm is not None and final_norm is getattr(module, "norm", None),
        num_prefix_tokens=module.num_prefix_tokens,
        class_token=None if getattr(module, "cls_token", None) is None else 0,
        num_registers=0 if registers is None else registers.shape[1],
        grid_size=grid_size or tuple(module.patch_embed.grid_size),
    )


def _block_paths(block: nn.Module) -> Paths:
    """Return where timm's blocks have their places.

    Norms of post-norm blocks, of the same names, are behind the attention and the MLP, and their
    outputs are no hidden states.
    """
    is_pre_norm = "Post" not in type(block).__name__
    has_inner = isinstance(getattr(block, "mlp", None), Mlp | GluMlp | SwiGLU)
    return Paths(
        # read as the attention's input, when the attention's weights are known too
        norm1=Path("attn", is_input=True) if is_pre_norm and hasattr(block, "norm1") else None,
        attn="attn",
        norm2="norm2" if is_pre_norm and hasattr(block, "mlp") else None,
        fc1="mlp.fc1" if has_inner else None,
        # dropout does nothing in evaluation mode, and its input is no module's output in a gated
        # MLP
        act="mlp.drop1" if has_inner else None,
        fc2="mlp.fc2",
        mlp="mlp",
    )


def _final_norm(module: nn.Module) -> nn.Module | None:
    """Return the norm that carries the weights after the last block, or None.

    It is `norm`, or `fc_norm` in a model that pools before it normalises.
    """
    for name in ("norm", "fc_norm"):
        norm = getattr(module, name, None)
        if isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity):
            return norm
    return None


def _grid_size(module: Any, size: tuple[int, int], *, name: str) -> tuple[int, int]:
    """Return the grid (h, w) of patches at an input size (H, W)."""
    return grid_at(
        size,
        native_size=tuple(module.patch_embed.img_size),
        native_grid=tuple(module.patch_embed.grid_size),
        resizable=hasattr(module, "set_input_size"),
        name=name,
        architecture=module.pretrained_cfg["architecture"],
    )


def _set_input_size(module: Any, size: tuple[int, int]) -> tuple[str, ...]:
    """Resample the positions to another input size; return a note for the user."""
    native = tuple(module.patch_embed.img_size)
    if native == size:
        return ()
    with warnings.catch_warnings():
        # of torch, about how timm interpolates BEiT's relative positions
        warnings.filterwarnings("ignore", module=r"timm\.layers\.interpolate")
        module.set_input_size(img_size=size)
    only_rope = getattr(module, "rope", None) is not None and module.pos_embed is None
    positions = "rotary positions of the new grid" if only_rope else "positions resampled"
    return (
        f"input {format_size(size)} instead of the checkpoint's {format_size(native)}: {positions}",
    )


def describe(name: str, *, offline: bool = False) -> ModelInfo:
    """Return the figures of any model that `load` accepts; see `sources.describe_model`.

    Args:
        name: The model, as for `load`.
        offline: Forbid the download of an address's config.json.
    """
    if not is_address(name):
        _defining_module(name)
    with torch.device("meta"):
        address = is_address(name)
        module: Any = create_from_address(name, offline=offline) if address else _create(name)
    _check_is_vit(module, name=name)
    remove_head(module)
    config, embed, vit = module.pretrained_cfg, module.patch_embed, timm_vit(module)
    notes = "; ".join(_timm_notes(config))
    return vit.info(
        name=name,
        params_m=sum(p.numel() for p in module.parameters()) / 1e6,
        input_size=embed.img_size[0],
        patch_size=embed.img_size[0] // embed.grid_size[0],
        note=notes or _weights_note(name, config),
        transform=timm_transform(config),
    )


def _weights_note(name: str, config: dict[str, Any]) -> str:
    if is_address(name):
        return "those of the folder" if name.startswith("local-dir:") else f"those of {name}"
    return f"timm's weights: {config.get('tag') or 'none'}"


def _defining_module(timm_name: str) -> str:
    """Return the Python module that defines a timm model, or raise UnknownNameError."""
    if ":" not in timm_name and is_model(timm_name):
        return str(model_entrypoint(get_arch_name(timm_name)).__module__)
    known = list(MODELS)
    for module in VIT_MODULES:
        known += timm.list_models(module=module)
    if not difflib.get_close_matches(timm_name, known, n=1, cutoff=0.5):
        known = list(MODELS)
    hint = "(see layercache models; any ViT of timm works, also hf-hub:ORG/NAME, local-dir:PATH)"
    raise UnknownNameError("model", timm_name, known, hint=hint)


def _create(timm_name: str) -> nn.Module:
    """Return the architecture with undefined parameters, all of which a checkpoint will fill."""
    try:
        with SkipInit():
            return timm.create_model(timm_name)  # type: ignore[no-any-return]
    except RuntimeError as e:
        if "Invalid pretrained tag" not in str(e):
            raise
        tagged = timm.list_models(get_arch_name(timm_name) + ".*", pretrained=True)
        raise UnknownNameError("model", timm_name, tagged) from e


def _check_is_vit(module: Any, *, name: str) -> None:
    has_attributes = all(hasattr(module, attribute) for attribute in VIT_ATTRIBUTES)
    if not has_attributes or not hasattr(module.patch_embed, "grid_size"):
        raise BackboneError(
            f"{name}: expected a ViT, got timm's {type(module).__name__}: "
            "choose a model of timm's vision_transformer, deit, eva or beit"
        )


def _timm_notes(config: dict[str, Any]) -> tuple[str, ...]:
    """Return timm's own remarks if they still apply.

    The weights of OpenAI, DFN and MetaCLIP need QuickGELU, which only `_quickgelu_` models have.
    """
    if "quickgelu" in config["architecture"]:
        return ()
    return tuple(config.get("notes") or ())
