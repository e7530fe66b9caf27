"""Visual towers of OpenCLIP that are its own ViTs, with their preprocessing and projection."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from layercache.errors import BackboneError, MissingExtraError
from layercache.extraction.models.module_paths import Path, Paths, find_blocks
from layercache.extraction.models.preprocessing.data_config import apply_options
from layercache.extraction.models.preprocessing.input_size import grid_at
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.preprocessing.transform import Preprocessing, format_size
from layercache.extraction.models.registry import CropMode, EvalTransform, ModelInfo
from layercache.extraction.models.sources.open_clip_address import OpenClipModel, find_model
from layercache.extraction.models.sources.open_clip_attention import class_attention_of
from layercache.extraction.models.vit import Check, LoadedModel, LoadRequest, ViT
from layercache.extraction.models.weights.checkpoint import (
    SkipInit,
    digest_weights,
    load_weights,
    read_checkpoint,
)

EXTRA = "open-clip"
BLOCKS = "transformer.resblocks"
PATHS = {
    # read as the attention's input, when the attention's weights are known too
    "norm1": Path("attn", is_input=True),
    "norm2": "ln_2",
    "fc1": "mlp.c_fc",
    "act": "mlp.gelu",
    "fc2": "mlp.c_proj",
    "mlp": "mlp",
}
"""Places in a block, except for "attn", whose module returns a tuple in most models."""
CROP_MODES: Mapping[str, CropMode] = {"shortest": "center", "squash": "squash"}
"""OpenCLIP's resize_mode -> the same `Preprocessing.crop_mode`."""


def load(name: str, request: LoadRequest, *, check: Check) -> LoadedModel:
    """Load a visual tower with its own weights, or those of a file; see `sources.load_model`.

    Args:
        name: "open_clip:NAME/TAG", "open_clip:NAME", "open_clip:hf-hub:ORG/NAME" or
            "open_clip:local-dir:PATH".
        request: What to load.
        check: Called with the bare architecture.
    """
    model = _open(name, offline=request.offline)
    preprocessing = _preprocessing(model, request.preprocessing, name=name)
    size = preprocessing.input_size
    with SkipInit():
        visual = _build(model, name=name)
    if request.projected and _pools_by_attention(model):
        raise BackboneError(
            f"{name}: its attention pooling is part of the map into the joint space, which is "
            "defined for no single token: leave projected out"
        )
    grid_size = _grid_size(visual, size, name=name)
    check(_describe(visual, model, grid_size=grid_size))
    path = request.weights or model.checkpoint()
    source = f"weights {path} for {name}"
    state, left_out = load_weights(visual, read_checkpoint(path), source=source)
    projection = _projection(visual, state, source=source) if request.projected else None
    digested = dict(visual.state_dict())
    if projection is not None:
        digested |= {f"proj.{key}": value for key, value in projection.state_dict().items()}
    digest = digest_weights(digested)  # before positions are resampled
    notes = model.notes + left_out + _set_input_size(visual, size, grid_size)
    return LoadedModel(
        vit=_describe(visual.eval().requires_grad_(False), model, grid_size=grid_size),
        projection=projection,
        weights_digest=digest,
        preprocessing=preprocessing,
        notes=notes,
    )


def describe(name: str, *, offline: bool) -> ModelInfo:
    """Return the figures of any tower that `load` accepts; see `sources.describe_model`.

    Args:
        name: The model, as for `load`.
        offline: Forbid the download of its configuration.
    """
    model = _open(name, offline=offline)
    config = _data_config(model, None, name=name)
    with torch.device("meta"):
        visual = _build(model, name=name)
    size = config["input_size"][1:]
    vit = _describe(visual, model, grid_size=_grid_size(visual, size, name=name))
    return vit.info(
        name=name,
        params_m=sum(p.numel() for p in visual.parameters()) / 1e6,
        input_size=size[0],
        patch_size=visual.patch_size[0],
        note="; ".join((model.weights_note, *model.notes)),
        transform=EvalTransform(
            crop_pct=config["crop_pct"],
            interpolation=config["interpolation"],
            crop_mode=config["crop_mode"],
            source="OpenCLIP's preprocessing",
        ),
    )


def _open(name: str, *, offline: bool) -> OpenClipModel:
    try:
        import open_clip  # noqa: F401
    except ImportError as e:
        raise MissingExtraError("open_clip_torch", EXTRA) from e
    return find_model(name, offline=offline)


def _build(model: OpenClipModel, *, name: str) -> Any:
    """Return the visual tower without what follows the final norm.

    Raises:
        BackboneError: It is no ViT of OpenCLIP's own.
    """
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    vision = dict(model.config["vision_cfg"])
    timm_name = vision.get("timm_model_name")
    if timm_name:
        raise BackboneError(f"{name}: its visual tower is timm's {timm_name}: {_timm(timm_name)}")
    if not isinstance(vision.get("layers", 12), int):
        raise BackboneError(f"{name}: expected a ViT, its visual tower is a ResNet")
    try:
        visual: Any = _build_vision_tower(
            model.config["embed_dim"],
            CLIPVisionCfg(**vision),
            quick_gelu=bool(model.config.get("quick_gelu", False)),
        )
    except (TypeError, ValueError, AssertionError, KeyError) as e:
        raise BackboneError(f"{name}: OpenCLIP cannot build its visual tower: {e}") from e
    visual.proj = None
    if _pools_by_attention(model):
        visual.attn_pool = None  # the norm behind it has another width than the tokens
        visual.ln_post = nn.Identity()
    return visual


def _timm(timm_name: str) -> str:
    """Return how to use a tower of timm."""
    import timm

    own = f"use {timm_name} with the checkpoint of OpenCLIP as weights"
    if not timm.is_model(timm_name):
        return own
    tagged = timm.list_models(f"{timm_name}.*", pretrained=True)
    return f"use timm's name, {' or '.join(tagged)}, or {own}" if tagged else own


def _pools_by_attention(model: OpenClipModel) -> bool:
    return bool(model.config["vision_cfg"].get("attentional_pool"))


def _describe(visual: Any, model: OpenClipModel, *, grid_size: tuple[int, int]) -> ViT:
    final_norm = None if isinstance(visual.ln_post, nn.Identity) else visual.ln_post
    return ViT(
        module=visual,
        forward=visual,
        architecture=_architecture(visual, model),
        blocks=find_blocks(
            visual,
            BLOCKS,
            _block_paths,
            width=visual.transformer.width,
            class_attention=class_attention_of,
        ),
        blocks_path=BLOCKS,
        width=visual.transformer.width,
        final_norm=final_norm,
        norm_in_forward=final_norm is not None and not visual.final_ln_after_pool,
        num_prefix_tokens=1,
        class_token=0,
        grid_size=grid_size,
    )


def _block_paths(block: nn.Module) -> Paths:
    returns_tuple = isinstance(block.attn, nn.MultiheadAttention)
    return Paths(**PATHS, attn=Path("attn", index=0 if returns_tuple else None))  # type: ignore[arg-type]


def _architecture(visual: Any, model: OpenClipModel) -> str:
    """Return the class of the tower with the options that are in no tensor."""
    vision = model.config["vision_cfg"]
    first: Any = visual.transformer.resblocks[0]
    options = {
        "num_heads": first.attn.num_heads,
        "quick_gelu": bool(model.config.get("quick_gelu", False)),
        **{key: vision[key] for key in ("act_kwargs", "norm_kwargs") if vision.get(key)},
    }
    listed = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"open_clip VisionTransformer({listed})"


def _data_config(
    model: OpenClipModel, requested: PreprocessingOptions | None, *, name: str
) -> dict[str, Any]:
    """Return the model's preprocessing as a data config of timm.

    Raises:
        BackboneError: It pads, and no other crop mode is requested.
    """
    size = model.config["vision_cfg"].get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    mode = model.transform["resize_mode"]
    if mode not in CROP_MODES and (requested is None or requested.crop_mode is None):
        raise BackboneError(
            f"{name}: OpenCLIP pads its images (resize_mode {mode!r}) with its own colour, which "
            "is not supported: give crop_mode 'border', which pads with the mean, or another one"
        )
    bilinear = model.transform["interpolation"] == "bilinear"
    if height != width and mode == "shortest":
        bilinear = False  # OpenCLIP ignores the filter there
    return {
        "input_size": (3, height, width),
        "crop_pct": 1.0,
        "crop_mode": CROP_MODES.get(mode, "border"),
        "interpolation": "bilinear" if bilinear else "bicubic",
        "mean": tuple(model.transform["mean"]),
        "std": tuple(model.transform["std"]),
    }


def _preprocessing(
    model: OpenClipModel, requested: Preprocessing | PreprocessingOptions | None, *, name: str
) -> Preprocessing:
    if isinstance(requested, Preprocessing):
        return requested
    return apply_options(_data_config(model, requested, name=name), requested)


def _projection(visual: Any, state: Mapping[str, Tensor], *, source: str) -> nn.Linear:
    """Return the map into the joint space, float32 and frozen."""
    matrix = state.get("proj")
    if matrix is None or matrix.ndim != 2 or len(matrix) != visual.transformer.width:
        raise BackboneError(
            f"{source}: projected needs proj of shape ({visual.transformer.width}, …), got "
            f"{None if matrix is None else tuple(matrix.shape)}: leave projected out"
        )
    projection = nn.Linear(matrix.shape[0], matrix.shape[1], bias=False)
    projection.load_state_dict({"weight": matrix.T.float()})
    return projection.requires_grad_(False)


def _grid_size(visual: Any, size: tuple[int, int], *, name: str) -> tuple[int, int]:
    return grid_at(
        size,
        native_size=tuple(visual.image_size),
        native_grid=tuple(visual.grid_size),
        resizable=True,
        name=name,
        architecture="open_clip VisionTransformer",
    )


def _set_input_size(
    visual: Any, size: tuple[int, int], grid_size: tuple[int, int]
) -> tuple[str, ...]:
    """Resample the positions to another input size as OpenCLIP does; return a note for the user."""
    from open_clip.model import resize_pos_embed

    native = tuple(visual.image_size)
    if native == size:
        return ()
    visual.image_size, visual.grid_size = size, grid_size
    key = "visual.positional_embedding"
    state = {key: visual.positional_embedding.detach()}
    resize_pos_embed(state, SimpleNamespace(visual=visual))
    visual.positional_embedding = nn.Parameter(state[key], requires_grad=False)
    return (
        f"input {format_size(size)} instead of the checkpoint's {format_size(native)}: positions "
        "resampled",
    )
