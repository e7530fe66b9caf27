"""Changes to a tower of transformers, so that it runs as an encoder.

It masks nothing, positions are resampled once, and rotary frequencies stay in float32.
Methods are replaced on the objects themselves, bound to them, so that copies of a module work.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from layercache.errors import BackboneError
from layercache.extraction.models.sources.transformers_tower import num_embedded_prefix, patch_size


def keep_patch_order(tower: nn.Module) -> None:
    """Replace MAE's random masking, which shuffles the patches even if it drops none.

    Raises:
        BackboneError: This version of transformers masks in another way.
    """
    embeddings: Any = tower.embeddings
    if hasattr(embeddings, "random_masking"):
        embeddings.random_masking = MethodType(_keep_all_patches, embeddings)
    elif type(tower).__name__ == "ViTMAEModel":
        raise BackboneError(
            "ViTMAEModel: this version of transformers has no embeddings.random_masking, so that "
            "its random masking cannot be turned off: install another version"
        )


def _keep_all_patches(
    embeddings: nn.Module, sequence: Tensor, noise: Tensor | None = None
) -> tuple[Tensor, None, None]:
    return sequence, None, None


def resample_positions(tower: nn.Module, input_size: tuple[int, int]) -> None:
    """Resample the positions to another input size once, in float32, and keep the result.

    The model's own function does it; the forward would call it for every batch, in its own
    precision.
    """
    embeddings: Any = tower.embeddings
    if not hasattr(embeddings, "interpolate_pos_encoding") or _positions(embeddings) is None:
        return
    patch = patch_size(tower)
    num_patches = (input_size[0] // patch[0]) * (input_size[1] // patch[1])
    width = tower.config.hidden_size  # type: ignore[union-attr]
    tokens = torch.empty(1, num_embedded_prefix(tower) + num_patches, width)  # type: ignore[arg-type]
    with torch.no_grad():
        positions = embeddings.interpolate_pos_encoding(tokens, *input_size)
    embeddings.register_buffer("resampled_positions", positions.detach(), persistent=False)
    embeddings.interpolate_pos_encoding = MethodType(_resampled_positions, embeddings)


def _resampled_positions(embeddings: Any, *args: Any, **kwargs: Any) -> Tensor:
    return embeddings.resampled_positions  # type: ignore[no-any-return]


def has_rotary_positions(tower: nn.Module) -> bool:
    """Return whether positions are rotary, computed for every grid."""
    return hasattr(tower, "rope_embeddings")


def keep_rotary_precision(tower: nn.Module) -> None:
    """Keep the frequencies of rotary positions in float32 when the model is cast.

    transformers computes them in float32 at any precision.
    """
    rope: Any = getattr(tower, "rope_embeddings", None)
    if rope is not None:
        rope._apply = MethodType(_move_without_cast, rope)


def _move_without_cast(
    rope: Any, fn: Callable[[Tensor], Tensor], recurse: bool = True
) -> nn.Module:
    frequencies = rope.inv_freq
    type(rope)._apply(rope, fn, recurse)
    rope.inv_freq = frequencies.to(rope.inv_freq.device)
    return rope  # type: ignore[no-any-return]


def _positions(embeddings: Any) -> Any:
    """Return learned absolute positions, or None."""
    for name in ("position_embeddings", "position_embedding"):
        if getattr(embeddings, name, None) is not None:
            return getattr(embeddings, name)
    return None
