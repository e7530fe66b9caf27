"""A model's name to its timm module with weights, its geometry and its preprocessing."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.models import get_arch_name, is_model, model_entrypoint
from torch import nn

from layercache.errors import BackboneError, UnknownNameError
from layercache.extraction.models import preprocessing, vit_nano
from layercache.extraction.models.checkpoint import (
    SkipInit,
    declared_architecture,
    digest_weights,
    load_weights,
    read_checkpoint,
    strip_head,
)
from layercache.extraction.models.download import download
from layercache.extraction.models.preprocessing import Preprocessing
from layercache.extraction.models.projection import projection, refuse_unprojected
from layercache.extraction.models.registry import MODELS, ModelInfo

FAMILIES = ("vision_transformer", "deit", "eva", "beit")
"""Modules of timm whose models are ViTs."""
PARTS = ("blocks", "patch_embed", "forward_features", "num_prefix_tokens")
"""What a timm model must have to be read as a ViT."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A ViT ready for taps."""

    module: nn.Module
    """float32, evaluation mode, frozen, without its head."""
    head: nn.Linear | None
    """CLIP's projection, where it was asked for."""
    architecture: str
    """timm's name without the weights tag."""
    digest: str
    """SHA-256 hex over the weights as the checkpoint gives them (before positions are resampled), the head only where it is used."""
    preprocessing: Preprocessing
    """From the weights' own data config."""
    depth: int
    """Blocks B."""
    width: int
    """D."""
    class_token: bool
    """Token 0 is a class token."""
    prefix: int
    """Tokens before the first patch."""
    grid: tuple[int, int]
    """(h, w) patches."""
    notes: tuple[str, ...]
    """For the user."""


def build(
    name: str,
    *,
    weights: str | Path | None = None,
    keep_head: bool = False,
    change: Callable[[Preprocessing], Preprocessing] | None = None,
    check: Callable[[nn.Module], object] | None = None,
) -> LoadedModel:
    """The model `name` with its own weights, or those of a file.

    keep_head: CLIP's projection is needed. change: the paper's preprocessing, applied to the models that the paper treated so.
    check: called with the bare architecture; what it refuses is refused before weights are read or downloaded.
    Raises UnknownNameError or BackboneError.
    """
    info = MODELS.get(name)
    if name == "vit_nano":
        module: Any = vit_nano.build()
        weights = weights or vit_nano.weights_path()
        keys_of = "timm.models.vision_transformer"
    else:
        timm_name = info.architecture if info else name
        keys_of = _entry(timm_name)
        with torch.device("meta") if weights is None else nullcontext():
            module = _create(timm_name)
        _refuse_other(module, name=name)
    if keep_head:
        refuse_unprojected(module, name=name)
    if check is not None:
        check(module)
    if weights is None:
        module = download(timm_name, name=name)

    state = read_checkpoint(weights) if weights else None
    head = projection(module, state, name=name) if keep_head else None
    strip_head(module)
    notes = _advice(module.pretrained_cfg)
    architecture = module.pretrained_cfg["architecture"]
    if weights and state is not None:
        load_weights(module, state, source=f"weights {weights} for {name}", keys_of=keys_of)
        declared = declared_architecture(weights)
        if declared not in (
            None,
            architecture,
        ):  # the tensors fit, but an activation, say, is in no tensor
            notes += (f"{weights} calls itself {declared}, loaded as {architecture}",)
    used = dict(module.state_dict())
    if head is not None:
        used |= {f"head.{k}": v for k, v in head.state_dict().items()}

    size = (info.input_size,) * 2 if info else None
    own = preprocessing.resolve(
        resolve_data_config(
            {"input_size": (3, *size)} if size else None, pretrained_cfg=module.pretrained_cfg
        )
    )
    digest = digest_weights(used)
    if change is not None and _has_quirk(module):
        own = change(own)
    native = tuple(module.patch_embed.img_size)
    if native != own.input_size:
        if not hasattr(module, "set_input_size"):
            raise BackboneError(
                f"{name}: {architecture} cannot run at {own.input_size}, only at {native}: choose another model"
            )
        notes += (
            f"input {' x '.join(map(str, own.input_size))} instead of the checkpoint's {' x '.join(map(str, native))}: positions resampled",
        )
        module.set_input_size(img_size=own.input_size)
    return LoadedModel(
        module=module.eval().requires_grad_(False),
        head=head,
        architecture=architecture,
        digest=digest,
        preprocessing=own,
        depth=len(module.blocks),
        width=module.embed_dim,
        class_token=has_class_token(module),
        prefix=module.num_prefix_tokens,
        grid=tuple(module.patch_embed.grid_size),
        notes=notes,
    )


def inspect(name: str) -> ModelInfo:
    """The figures of any model that `build` takes, without its weights. Raises UnknownNameError or BackboneError."""
    if name in MODELS:
        return MODELS[name]
    _entry(name)
    with torch.device("meta"):
        module: Any = _create(name)
    _refuse_other(module, name=name)
    strip_head(module)
    embed = module.patch_embed
    return ModelInfo(
        name=name,
        architecture=module.pretrained_cfg["architecture"],
        params_m=sum(p.numel() for p in module.parameters()) / 1e6,
        width=module.embed_dim,
        depth=len(module.blocks),
        input_size=embed.img_size[0],
        patch=embed.img_size[0] // embed.grid_size[0],
        note="; ".join(_advice(module.pretrained_cfg))
        or f"weights of timm: {module.pretrained_cfg.get('tag') or 'none'}",
        class_token=has_class_token(module),
    )


def _entry(timm_name: str) -> str:
    """The Python module that defines the model. Raises UnknownNameError."""
    if not is_model(timm_name):
        known = [
            *MODELS,
            *(name for family in FAMILIES for name in timm.list_models(module=family)),
        ]
        near = difflib.get_close_matches(timm_name, known, n=1, cutoff=0.5)
        raise UnknownNameError(
            "model",
            timm_name,
            known if near else MODELS,
            hint="(layercache models lists the short names; any timm ViT serves)",
        )
    return str(model_entrypoint(get_arch_name(timm_name)).__module__)


def _create(timm_name: str) -> nn.Module:
    """The architecture, its parameters undefined: a checkpoint is about to fill every one of them, strictly."""
    try:
        with SkipInit():
            return timm.create_model(timm_name)  # type: ignore[no-any-return]
    except RuntimeError as e:
        if "Invalid pretrained tag" not in str(e):
            raise
        raise UnknownNameError(
            "model", timm_name, timm.list_models(get_arch_name(timm_name) + ".*", pretrained=True)
        ) from e


def _refuse_other(module: Any, *, name: str) -> None:
    if not all(hasattr(module, part) for part in PARTS) or not hasattr(
        module.patch_embed, "grid_size"
    ):
        raise BackboneError(
            f"{name}: expected a ViT, got timm's {type(module).__name__}: choose a model of timm's vision_transformer, deit, eva or beit"
        )


def has_class_token(module: Any) -> bool:
    """Token 0 is a class token."""
    return getattr(module, "cls_token", None) is not None


def _advice(cfg: dict[str, Any]) -> tuple[str, ...]:
    """Timm's own remark, if it still applies: OpenAI's, DFN's and MetaCLIP's weights want QuickGELU, which only the `_quickgelu_` names build."""
    if "quickgelu" in cfg["architecture"]:
        return ()
    return tuple(cfg.get("notes") or ())


def _has_quirk(module: Any) -> bool:
    """DINOv2 and MAE, which the paper's extractor preprocessed in its own way."""
    cfg = module.pretrained_cfg
    return "dinov2" in cfg["architecture"] or cfg.get("tag") == "mae"
