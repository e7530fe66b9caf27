"""ViTs of transformers: "hf:ORG/NAME[@REVISION]", or "hf:PATH" of a folder.

A tower is built by transformers from config.json and loaded by its `from_pretrained`, which knows
the names of older checkpoints; strictly, and without any code of the repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layercache.errors import BackboneError, MissingExtraError
from layercache.extraction.models.preprocessing.data_config import apply_options
from layercache.extraction.models.preprocessing.input_size import grid_at
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.preprocessing.transform import Preprocessing, format_size
from layercache.extraction.models.registry import EvalTransform, ModelInfo
from layercache.extraction.models.sources.transformers_files import PROCESSOR_FILES, ModelFiles
from layercache.extraction.models.sources.transformers_overrides import (
    has_rotary_positions,
    keep_patch_order,
    keep_rotary_precision,
    resample_positions,
)
from layercache.extraction.models.sources.transformers_processor import (
    data_config,
    read_processor,
)
from layercache.extraction.models.sources.transformers_tower import (
    Family,
    arguments_of,
    block_output_index,
    class_of,
    describe_tower,
    family_of,
    native_size,
    patch_size,
    tower_config,
    tower_of,
)
from layercache.extraction.models.sources.transformers_weights import (
    LoadedTower,
    digest_tower,
    is_used,
    load_tower,
)
from layercache.extraction.models.vit import Check, LoadedModel, LoadRequest, ViT
from layercache.extraction.models.weights.checkpoint import SkipInit

EXTRA = "transformers"


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A model's files and configuration."""

    files: ModelFiles
    family: Family
    values: Mapping[str, Any]
    """Contents of config.json."""
    config: Any
    """The tower's configuration object."""

    @property
    def name(self) -> str:
        return self.files.name

    def build(self) -> nn.Module:
        """Return the tower on the meta device, in evaluation mode."""
        model_class = class_of(self.family, self.values)
        arguments = arguments_of(model_class, self.family, self.config)
        with torch.device("meta"):
            tower = tower_of(model_class(self.config, **arguments))
        keep_patch_order(tower)
        return tower.eval()

    def build_first_block(self) -> nn.Module:
        """Return the tower with one block and undefined weights, in evaluation mode."""
        config = deepcopy(self.config)
        config.num_hidden_layers = 1
        model_class = class_of(self.family, self.values)
        with SkipInit():
            tower = tower_of(model_class(config, **arguments_of(model_class, self.family, config)))
        keep_patch_order(tower)
        return tower.eval()


def load(name: str, request: LoadRequest, *, check: Check) -> LoadedModel:
    """Load a model with its own weights, or those of a file; see `sources.load_model`.

    Args:
        name: "hf:ORG/NAME", "hf:ORG/NAME@REVISION" or "hf:PATH".
        request: What to load.
        check: Called with the bare architecture, and again if the checkpoint has no final norm.
    """
    model = _open(name, offline=request.offline)
    if request.projected and model.family.projection_class is None:
        raise BackboneError(
            f"{name}: projected needs a CLIP model with its projection into the joint space, "
            f"{model.family.model_class} has none: leave it out"
        )
    preprocessing, notes = _preprocessing(model, request.preprocessing)
    size = preprocessing.input_size
    bare = model.build()
    grid_size, output_index = _run_at(model, size)

    def describe_at_size(tower: nn.Module, *, has_final_norm: bool = True) -> ViT:
        return describe_tower(
            tower,
            model.family,
            grid_size=grid_size,
            input_size=size,
            output_index=output_index,
            has_final_norm=has_final_norm,
        )

    check(describe_at_size(bare))
    loaded = _load(model, request)
    tower = tower_of(loaded.model.eval().requires_grad_(False))
    projection = loaded.model.visual_projection if request.projected else None
    digest = digest_tower(loaded.model, projection)  # before positions are resampled
    keep_patch_order(tower)
    keep_rotary_precision(tower)
    notes += loaded.notes + _set_input_size(tower, size)
    vit = describe_at_size(tower, has_final_norm=loaded.has_final_norm)
    if not loaded.has_final_norm:
        check(vit)
    return LoadedModel(
        vit=vit,
        projection=projection,
        weights_digest=digest,
        preprocessing=preprocessing,
        notes=notes,
    )


def describe(name: str, *, offline: bool) -> ModelInfo:
    """Return the figures of any model that `load` accepts; see `sources.describe_model`.

    Args:
        name: The model, as for `load`.
        offline: Forbid the download of its configuration.
    """
    model = _open(name, offline=offline)
    config, _ = data_config(_read_processor(model), name=name)
    size: tuple[int, int] = config["input_size"][1:]
    bare = model.build()
    grid_size, output_index = _run_at(model, size)
    vit = describe_tower(
        bare, model.family, grid_size=grid_size, input_size=size, output_index=output_index
    )
    used = {key: value for key, value in bare.state_dict().items() if is_used(key)}
    native = native_size(bare)
    return vit.info(
        name=name,
        params_m=sum(value.numel() for value in used.values()) / 1e6,
        input_size=size[0],
        patch_size=patch_size(bare)[0],
        note="its own" + (f"; native input {format_size(native)}" if native != size else ""),
        transform=EvalTransform(
            crop_pct=config["crop_pct"],
            interpolation=config["interpolation"],
            crop_mode=config["crop_mode"],
            source="its image processor",
        ),
    )


def _open(name: str, *, offline: bool) -> _Model:
    try:
        import transformers
    except ImportError as e:
        raise MissingExtraError("transformers", EXTRA) from e
    files = ModelFiles(name=name, offline=offline)
    values, path = files.config()
    family = family_of(values, name=name, where=path)
    if not hasattr(transformers, family.model_class):
        raise BackboneError(
            f"{name}: transformers {transformers.__version__} has no {family.model_class}: "
            "install a newer one"
        )
    try:
        config = tower_config(family, values)
    except Exception as e:  # transformers raises many kinds
        raise BackboneError(f"{name}: transformers cannot read {path}: {_first_line(e)}") from e
    return _Model(files=files, family=family, values=values, config=config)


def _read_processor(model: _Model) -> dict[str, Any]:
    return read_processor(model.files.find(PROCESSOR_FILES).parent, name=model.name)


def _preprocessing(
    model: _Model, requested: Preprocessing | PreprocessingOptions | None
) -> tuple[Preprocessing, tuple[str, ...]]:
    """Return the model's preprocessing with the user's options, and notes for the user."""
    if isinstance(requested, Preprocessing):
        return requested, ()
    if requested is not None and requested.is_complete:
        return apply_options({}, requested), ()
    config, notes = data_config(_read_processor(model), name=model.name)
    return replace(apply_options(config, requested), crop_rounding="down"), notes


def _run_at(model: _Model, size: tuple[int, int]) -> tuple[tuple[int, int], int | None]:
    """Return the grid of patches at an input size, and the index of a block's hidden state.

    Raises:
        BackboneError: The model cannot run at this size.
        OptionError: Its patches do not divide the size.
    """
    tower = model.build_first_block()
    native, patch = native_size(tower), patch_size(tower)
    grid = grid_at(
        size,
        native_size=native,
        native_grid=(native[0] // patch[0], native[1] // patch[1]),
        resizable=True,
        name=model.name,
        architecture=type(tower).__name__,
    )
    try:
        return grid, block_output_index(tower, size)
    except Exception as e:  # transformers raises many kinds
        raise BackboneError(
            f"{model.name}: {type(tower).__name__} cannot run at {format_size(size)} (its own size "
            f"is {format_size(native)}): {_first_line(e)}"
        ) from e


def _load(model: _Model, request: LoadRequest) -> LoadedTower:
    model_class = class_of(model.family, model.values, projected=request.projected)
    return load_tower(
        model_class,
        model.config,
        arguments_of(model_class, model.family, model.config),
        checkpoint=Path(request.weights or model.files.checkpoint_folder()),
        source=f"weights {request.weights} for {model.name}"
        if request.weights
        else f"the weights of {model.name}",
    )


def _set_input_size(tower: nn.Module, size: tuple[int, int]) -> tuple[str, ...]:
    """Resample the positions to another input size; return a note for the user."""
    native = native_size(tower)
    if native == size:
        return ()
    resample_positions(tower, size)
    positions = (
        "rotary positions of the new grid" if has_rotary_positions(tower) else "positions resampled"
    )
    return (
        f"input {format_size(size)} instead of the checkpoint's {format_size(native)}: {positions}",
    )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
