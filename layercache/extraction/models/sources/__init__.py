"""A model's name to its ViT: one module for each library or kind of address.

Each has `load(name, request, check=...)`, which returns a `LoadedModel`, and
`describe(name, offline=...)`, which returns a `ModelInfo` without reading weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

from layercache._offline import is_offline
from layercache.cache.format.origin import is_encoder_file, model_source
from layercache.extraction.models.encoder import Encoder
from layercache.extraction.models.registry import MODELS, ModelInfo
from layercache.extraction.models.vit import Check, LoadedModel, LoadRequest

_HERE = "layercache.extraction.models.sources"
SOURCES: Mapping[str, str] = MappingProxyType(
    {"hf": f"{_HERE}.transformers", "open_clip": f"{_HERE}.open_clip"}
)
"""Kind of an address (what stands before its first colon) -> module; all others are timm's."""


def load_model(name: str | Encoder, request: LoadRequest, *, check: Check) -> LoadedModel:
    """Load a model with its own weights, or those of a file.

    Args:
        name: The model, as for `load_encoder`.
        request: What to load.
        check: Called with the bare architecture, its grid that of the requested input size; may
            raise before weights are read or downloaded.

    Raises:
        UnknownNameError: There is no such model.
        BackboneError: The model is no ViT, or the weights cannot be loaded.
        OptionError: The model's patches do not divide the input size.
    """
    loaded: LoadedModel = _source(name).load(name, request, check=check)
    return loaded


def describe_model(name: str | Encoder, *, offline: bool = False) -> ModelInfo:
    """Return the figures of any model that `load_model` accepts, without its weights.

    Args:
        name: The model, as for `load_encoder`.
        offline: Forbid the download of an address's config.json, as $LAYERCACHE_OFFLINE does.

    Raises:
        UnknownNameError: There is no such model.
        BackboneError: The model is no ViT, or its address cannot be read.
    """
    if isinstance(name, str):
        if name in MODELS:
            return MODELS[name]
        name = model_source(name)
    info: ModelInfo = _source(name).describe(name, offline=is_offline(offline))
    return info


def _source(name: str | Encoder) -> Any:
    if isinstance(name, Encoder) or is_encoder_file(name):
        return import_module(f"{_HERE}.custom")
    kind, _, _ = name.partition(":")
    return import_module(SOURCES.get(kind, f"{_HERE}.timm"))
