"""Models of timm by their address: "hf-hub:ORG/NAME[@REVISION]" or "local-dir:PATH".

Both are a config.json (architecture, `model_args`, `pretrained_cfg`) and a checkpoint, in the
layout that timm's `save_for_hf` and `push_to_hf_hub` write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import timm.layers
from torch import nn

from layercache._offline import hub_offline
from layercache.errors import BackboneError, UnknownNameError
from layercache.extraction.models.weights.download import CHECKPOINT_FILES, hub_file

ADDRESSES = ("hf-hub", "local-dir")
"""Kinds of addresses, with a colon before the place."""
CONFIG_FILE = "config.json"
CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pth.tar", ".bin", ".pt")
"""Suffixes of a folder's checkpoint, if it has none of CHECKPOINT_FILES; the first goes first."""
NOT_IN_ARCHITECTURE = ("num_classes", "drop_rate", "drop_path_rate", "proj_drop_rate")
"""Arguments that do not change the tokens of a frozen model."""

_SWIGLU: dict[str, Any] = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
MODEL_ARGS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "bioptimus/h-optimus-0": {"init_values": 1e-5, "dynamic_img_size": False},
        "bioptimus/h-optimus-1": {"init_values": 1e-5, "dynamic_img_size": False},
        "bioptimus/h0-mini": _SWIGLU,
        "mahmoodlab/uni": {"init_values": 1e-5, "dynamic_img_size": True},
        "mahmoodlab/uni2-h": {
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "num_classes": 0,
            "no_embed_class": True,
            "reg_tokens": 8,
            "dynamic_img_size": True,
            **_SWIGLU,
        },
        "paige-ai/virchow": _SWIGLU,
        "paige-ai/virchow2": _SWIGLU,
    }
)
"""Repository, in lower case -> arguments that its page passes to `timm.create_model`.

Their config.json does not hold all of them.
"""


def is_address(name: str) -> bool:
    """Return whether a model is named by its address."""
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind in ADDRESSES


def create_from_address(name: str, *, offline: bool = False) -> nn.Module:
    """Return the architecture at an address, its weights undefined or random.

    Its `pretrained_cfg["architecture"]` also holds the arguments, because an activation, for
    example, is in no tensor: "vit_giant_patch14_224(act_layer='silu', depth=24, ...)".

    Args:
        name: The address.
        offline: Forbid the download of config.json; a cached one is used.

    Raises:
        BackboneError: There is no such model, it is not reachable, or timm cannot build it.
    """
    path = _config_path(name, offline=offline)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        stored_args = dict(config.get("model_args") or {})
    except (OSError, ValueError, AttributeError, TypeError) as e:
        raise BackboneError(f"{name}: {path} is no config.json of timm: {e}") from e
    if not isinstance(config.get("architecture"), str):
        remedy = "is it a model of timm?"
        if "model_type" in config:
            remedy = f"it is a model of transformers, use hf:{_repository(name)}"
        raise BackboneError(
            f"{name}: expected 'architecture' in {path}, the name of a timm model, got "
            f"{', '.join(config) or 'nothing'}: {remedy}"
        )
    args = {**stored_args, **_page_args(name)}
    resolved = _with_classes(args)
    try:
        with hub_offline(True):  # config.json is cached by now
            module: Any = timm.create_model(name, **resolved)
    except Exception as e:  # timm and the model's constructor raise many kinds
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise BackboneError(
            f"{name}: timm cannot build {config['architecture']} with the model_args of {path}: "
            f"{reason}"
        ) from e
    architecture = module.pretrained_cfg["architecture"]
    kept = {key: args[key] for key in sorted(args) if key not in NOT_IN_ARCHITECTURE}
    listed = ", ".join(f"{key}={value!r}" for key, value in kept.items())
    module.pretrained_cfg = {
        **module.pretrained_cfg,
        "architecture": f"{architecture}({listed})" if listed else architecture,
    }
    return module  # type: ignore[no-any-return]


def address_checkpoint(name: str, *, offline: bool = False) -> Path:
    """Return the checkpoint file at an address, downloaded on first use.

    Raises:
        BackboneError: There is none, or it is not reachable.
    """
    if not name.startswith("local-dir:"):
        return hub_file(_repository(name), CHECKPOINT_FILES, name=name, offline=offline, log=True)
    folder = _folder(name)
    files = sorted(folder.iterdir())
    for wanted in (*CHECKPOINT_FILES, *CHECKPOINT_SUFFIXES):
        found = [file for file in files if file.name.endswith(wanted) and file.is_file()]
        found = [file for file in found if file.name == wanted] or found
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise BackboneError(
                f"{name}: expected one checkpoint, got {names}: name it model.safetensors or "
                "pytorch_model.bin, or give its path as weights"
            )
        if found:
            return found[0]
    raise BackboneError(
        f"{name}: there is no checkpoint in {folder}: expected {' or '.join(CHECKPOINT_FILES)}, "
        "or give its path as weights"
    )


def _page_args(name: str) -> dict[str, Any]:
    repository = _repository(name).partition("@")[0].lower()
    return {} if name.startswith("local-dir:") else MODEL_ARGS.get(repository, {})


def _with_classes(args: dict[str, Any]) -> dict[str, Any]:
    """Return arguments with the class of `mlp_layer`, which timm does not look up by its name."""
    layer = args.get("mlp_layer")
    if not isinstance(layer, str):
        return args
    known = [name for name in dir(timm.layers) if name.endswith(("Mlp", "GLU", "GLUPacked"))]
    if layer not in known:
        raise UnknownNameError("mlp_layer", layer, known)
    return {**args, "mlp_layer": getattr(timm.layers, layer)}


def _config_path(name: str, *, offline: bool) -> Path:
    if not name.startswith("local-dir:"):
        return hub_file(_repository(name), (CONFIG_FILE,), name=name, offline=offline)
    path = _folder(name) / CONFIG_FILE
    if not path.is_file():
        raise BackboneError(
            f"{name}: there is no {path}: expected a folder in timm's hub layout, with config.json "
            "and model.safetensors, as timm.models.save_for_hf writes it"
        )
    return path


def _folder(name: str) -> Path:
    folder = Path(_repository(name)).expanduser()
    if not folder.is_dir():
        problem = "a file, not a folder" if folder.exists() else "no such folder"
        raise BackboneError(f"{name}: {problem}: expected local-dir:PATH of a model of timm")
    return folder


def _repository(name: str) -> str:
    """Return what follows the colon."""
    place = name.partition(":")[2]
    if not place:
        raise BackboneError(f"{name}: expected hf-hub:ORG/NAME or local-dir:PATH")
    return place
