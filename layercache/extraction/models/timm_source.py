"""A model's name to its timm module with weights, geometry and preprocessing."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_arch_name, is_model, model_entrypoint
from torch import nn

from layercache._offline import is_offline
from layercache.cache.format.origin import model_source
from layercache.errors import BackboneError, UnknownNameError
from layercache.extraction.models.checkpoint import (
    SkipInit,
    declared_architecture,
    digest_weights,
    load_weights,
    read_checkpoint,
    remove_head,
)
from layercache.extraction.models.class_attention import has_class_attention
from layercache.extraction.models.data_config import resolve_preprocessing, timm_transform
from layercache.extraction.models.download import download_model
from layercache.extraction.models.preprocessing import Preprocessing, format_size
from layercache.extraction.models.preprocessing_options import PreprocessingOptions, check_divisible
from layercache.extraction.models.projection import check_has_projection, load_projection
from layercache.extraction.models.registry import MODELS, ModelInfo
from layercache.extraction.models.timm_address import (
    address_checkpoint,
    create_from_address,
    is_address,
)
from layercache.extraction.models.vit_nano import create_vit_nano, weights_path

VIT_MODULES = ("vision_transformer", "deit", "eva", "beit")
"""Modules of timm whose models are ViTs."""
VIT_ATTRIBUTES = ("blocks", "patch_embed", "forward_features", "num_prefix_tokens")
"""Attributes that a timm model must have to be used as a ViT."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A frozen ViT with its weights."""

    module: nn.Module
    """The timm module: float32, evaluation mode, without its head."""
    projection: nn.Linear | None
    """CLIP's projection, if requested."""
    architecture: str
    """timm's name without the weights tag."""
    weights_digest: str
    """SHA-256, hex, of the checkpoint's own weights (before positions are resampled).

    The projection is included only if it is used.
    """
    preprocessing: Preprocessing
    """The weights' own preprocessing."""
    depth: int
    """Number of blocks B."""
    has_class_token: bool
    """True if token 0 is a class token."""
    num_prefix_tokens: int
    """Number of tokens before the first patch."""
    num_registers: int
    """Number of registers among them, the last ones."""
    grid_size: tuple[int, int]
    """(h, w) patches."""
    notes: tuple[str, ...]
    """Remarks for the user."""


def load_model(
    name: str,
    *,
    weights: str | Path | None = None,
    projected: bool = False,
    paper_compat: bool = False,
    preprocessing: Preprocessing | PreprocessingOptions | None = None,
    offline: bool = False,
    check: Callable[[nn.Module, tuple[int, int]], object] | None = None,
) -> LoadedModel:
    """Load a model with its own weights, or those of a file.

    Args:
        name: A short name of MODELS, timm's name of a ViT, or its address ("hf-hub:ORG/NAME",
            "local-dir:PATH").
        weights: A checkpoint file; by default the bundled one, that of the address, or what timm
            downloads.
        projected: Also load CLIP's projection into the joint space.
        paper_compat: Use the paper's preprocessing for DINOv2 and MAE.
        preprocessing: Options that replace parts of the weights' own preprocessing, or a
            preprocessing to use instead.
        offline: Forbid downloads, as $LAYERCACHE_OFFLINE does.
        check: Called with the bare architecture and its grid (h, w) of patches at the input size;
            may raise before weights are read or downloaded.

    Raises:
        UnknownNameError: There is no such model.
        BackboneError: The model is no ViT, or the weights cannot be loaded.
        OptionError: The model's patches do not divide the input size.
    """
    info = MODELS.get(name)
    offline = is_offline(offline)
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
    if projected:
        check_has_projection(module, name=name)
    resolved, notes = resolve_preprocessing(
        module.pretrained_cfg, info, preprocessing, paper_compat=paper_compat
    )
    grid_size = _grid_size(module, resolved.input_size, name=name)
    if check is not None:
        check(module, grid_size)
    projection = None
    if is_address(name):
        weights = weights or address_checkpoint(name, offline=offline)
    elif weights is None:
        module = download_model(timm_name, name=name, offline=offline)
        projection = load_projection(module, None, name=name) if projected else None
    remove_head(module)
    config = module.pretrained_cfg
    architecture = config["architecture"]
    notes += _timm_notes(config)
    if weights is not None:
        state, left_out = load_weights(
            module,
            read_checkpoint(weights),
            source=f"weights {weights} for {name}",
            timm_module=timm_module,
        )
        notes += left_out
        if projected:
            projection = load_projection(module, state, name=name)
        # the tensors fit, but an activation, for example, is in no tensor
        declared = declared_architecture(weights)
        if declared not in (None, architecture):
            notes += (f"{weights} declares {declared}, loaded as {architecture}",)
    digested = dict(module.state_dict())
    if projection is not None:
        digested |= {f"head.{key}": value for key, value in projection.state_dict().items()}
    weights_digest = digest_weights(digested)  # before positions are resampled

    notes += _set_input_size(module, resolved.input_size)
    return LoadedModel(
        module=module.eval().requires_grad_(False),
        projection=projection,
        architecture=architecture,
        weights_digest=weights_digest,
        preprocessing=resolved,
        depth=len(module.blocks),
        has_class_token=has_class_token(module),
        num_prefix_tokens=module.num_prefix_tokens,
        num_registers=num_registers(module),
        grid_size=grid_size,
        notes=notes,
    )


def _grid_size(module: Any, size: tuple[int, int], *, name: str) -> tuple[int, int]:
    """Return the grid (h, w) of patches at an input size (H, W)."""
    embed = module.patch_embed
    if tuple(embed.img_size) == size:
        return tuple(embed.grid_size)
    if not hasattr(module, "set_input_size"):
        raise BackboneError(
            f"{name}: {module.pretrained_cfg['architecture']} cannot run at {format_size(size)}, "
            f"only at {format_size(embed.img_size)}: choose another model"
        )
    patch = [pixels // n for pixels, n in zip(embed.img_size, embed.grid_size, strict=True)]
    check_divisible(size, patch, model=name)
    return size[0] // patch[0], size[1] // patch[1]


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


def describe_model(name: str, *, offline: bool = False) -> ModelInfo:
    """Return the figures of any model that `load_model` accepts, without its weights.

    Args:
        name: The model, as for `load_model`.
        offline: Forbid the download of an address's config.json, as $LAYERCACHE_OFFLINE does.

    Raises:
        UnknownNameError: There is no such model.
        BackboneError: The model is no ViT, or its address cannot be read.
    """
    if name in MODELS:
        return MODELS[name]
    name, offline = model_source(name), is_offline(offline)
    if not is_address(name):
        _defining_module(name)
    with torch.device("meta"):
        address = is_address(name)
        module: Any = create_from_address(name, offline=offline) if address else _create(name)
    _check_is_vit(module, name=name)
    remove_head(module)
    config, embed = module.pretrained_cfg, module.patch_embed
    notes = "; ".join(_timm_notes(config))
    return ModelInfo(
        name=name,
        architecture=config["architecture"],
        params_m=sum(p.numel() for p in module.parameters()) / 1e6,
        width=module.embed_dim,
        depth=len(module.blocks),
        input_size=embed.img_size[0],
        patch_size=embed.img_size[0] // embed.grid_size[0],
        note=notes or _weights_note(name, config),
        transform=timm_transform(config),
        class_token=has_class_token(module),
        class_attention=all(has_class_attention(block) for block in module.blocks),
        registers=num_registers(module) > 0,
    )


def _weights_note(name: str, config: dict[str, Any]) -> str:
    if is_address(name):
        return "those of the folder" if name.startswith("local-dir:") else f"those of {name}"
    return f"timm's weights: {config.get('tag') or 'none'}"


def has_class_token(module: Any) -> bool:
    """Return whether token 0 of a timm ViT is a class token."""
    return getattr(module, "cls_token", None) is not None


def num_registers(module: Any) -> int:
    """Return the number of registers of a timm ViT."""
    registers = getattr(module, "reg_token", None)
    return 0 if registers is None else registers.shape[1]


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

    The weights of OpenAI, DFN and MetaCLIP want QuickGELU, which only `_quickgelu_` models have.
    """
    if "quickgelu" in config["architecture"]:
        return ()
    return tuple(config.get("notes") or ())
