"""Weights of a vision tower of transformers: loaded strictly, identified by a digest.

`from_pretrained` loads them, because it knows the names of older checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layercache.errors import BackboneError
from layercache.extraction.models.sources.transformers_processor import quiet
from layercache.extraction.models.weights.checkpoint import (
    abbreviate,
    digest_weights,
    read_checkpoint,
)
from layercache.extraction.models.weights.key_prefix import StateMatch, count_parts, find_state

NOT_IN_TOKENS = (
    *("pooler.dense.", "head.", "embeddings.mask_token", "visual_projection.", "lm_head."),
)
"""Beginnings of the names of a tower's tensors that change no token."""
POOLER_NORM = "pooler.layernorm"
"""Final norm of models that pool first, which checkpoints without fine-tuning lack."""
TOWER_PREFIXES = ("vision_model.", "beit.")
"""Prefixes of a tower's tensors in a class around it."""


@dataclass(frozen=True, kw_only=True)
class LoadedTower:
    """A model of transformers with its weights."""

    model: Any
    """Object of the class that was loaded, float32."""
    has_final_norm: bool
    """False if the checkpoint has no weights for the final norm."""
    notes: tuple[str, ...]
    """Remarks for the user."""


def load_tower(
    model_class: Any,
    config: Any,
    arguments: Mapping[str, Any],
    *,
    checkpoint: Path,
    source: str,
) -> LoadedTower:
    """Load a checkpoint strictly.

    Args:
        model_class: Class to load.
        config: Configuration of the tower.
        arguments: Further arguments of the class's constructor.
        checkpoint: A folder that `save_pretrained` wrote, or a safetensors or torch file with the
            model under any prefix.
        source: Name of the checkpoint, for errors and remarks.

    Raises:
        BackboneError: It cannot be read, or does not fit.
    """
    state, outside = None, []
    if not checkpoint.is_dir():
        tensors = read_checkpoint(checkpoint)
        match = _find_state(tensors, model_class, config, arguments, source=source)
        state = match.state
        outside = [key for key in tensors if not key.startswith(match.prefix)]
    try:
        with quiet():
            model, info = model_class.from_pretrained(
                None if state is not None else str(checkpoint),
                config=config,
                state_dict=state,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below
                **arguments,
            )
    except Exception as e:  # transformers, safetensors and torch raise many kinds
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise BackboneError(f"{source} cannot be loaded: {reason}") from e
    missing = {key for key in info["missing_keys"] if is_used(key)}
    no_norm = {key for key in missing if key.startswith(POOLER_NORM)}
    left_out = [_in_tower(key, model) for key in sorted(info["unexpected_keys"])]
    names = (*stored_names(model), *model.state_dict())  # transformers reports some of either
    own_parts = {_in_tower(key, model).split(".")[0] for key in names}
    own = [key for key in left_out if key.split(".")[0] in own_parts]
    others = [key for key in left_out if key not in own] + outside
    _check(
        source,
        missing=sorted(missing - no_norm),
        unexpected=[key for key in own if is_used(key) and not key.endswith("position_ids")],
        mismatched=[entry for entry in info["mismatched_keys"] if is_used(entry[0])],
    )
    notes: tuple[str, ...] = ()
    if left_out or outside:
        listed = [f"{part} ({n})" for part, n in count_parts(others).items()] + own
        notes = (f"{source}: tensors that are not the model's are left out: {abbreviate(listed)}",)
    return LoadedTower(model=model, has_final_norm=not no_norm, notes=notes)


def digest_tower(model: nn.Module, projection: nn.Linear | None) -> str:
    """Return the digest of the tensors that change tokens, by the names of checkpoints.

    Checkpoints keep their names, while those of modules differ between versions of transformers.
    """
    tensors = {
        _in_tower(key, model): value for key, value in stored_names(model).items() if is_used(key)
    }
    if projection is not None:
        tensors |= {f"visual_projection.{k}": v for k, v in projection.state_dict().items()}
    return digest_weights(tensors)


def stored_names(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's tensors by the names that `save_pretrained` gives them."""
    state: dict[str, Tensor] = dict(model.state_dict())
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before version 5, modules have the names of checkpoints
        return state
    return dict(revert_weight_conversion(model, state))


def is_used(key: str) -> bool:
    """Return whether a tensor of a model changes the tokens of its tower."""
    for prefix in TOWER_PREFIXES:
        key = key.removeprefix(prefix)
    return not key.startswith(NOT_IN_TOKENS)


def _in_tower(key: str, model: nn.Module) -> str:
    """Return the name of a tensor in the tower, without the prefixes of classes around it."""
    for prefix in (f"{getattr(model, 'base_model_prefix', '')}.", *TOWER_PREFIXES):
        key = key.removeprefix(prefix)
    return key


def _find_state(
    tensors: Mapping[str, Tensor],
    model_class: Any,
    config: Any,
    arguments: Mapping[str, Any],
    *,
    source: str,
) -> StateMatch:
    """Return the model's tensors in a file, by the names of checkpoints or those of modules."""
    with torch.device("meta"):
        bare = model_class(config, **arguments)
    matches = [
        find_state(tensors, [key for key in names if is_used(key)], source=source)
        for names in (stored_names(bare), bare.state_dict())
    ]
    return max(matches, key=lambda match: match.n_found)


def _check(
    source: str, *, missing: list[str], unexpected: list[str], mismatched: list[Any]
) -> None:
    """Raise BackboneError if tensors that change tokens are missing, or others are there."""
    shapes = [
        f"{key} (expected {tuple(expected)}, got {tuple(got)})" for key, got, expected in mismatched
    ]
    problems = [
        f"{len(keys)} {problem}: {abbreviate(keys)}"
        for problem, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if keys
    ]
    if problems:
        raise BackboneError(
            f"{source}: {'; '.join(problems)}: is it the checkpoint of another model?"
        )
