"""Points in a timm ViT where a layer's hidden state is read.

Layers are numbered 1..B, B the number of blocks.

    tap "norm2"         layer l < B: the output of `blocks[l].norm2` (so block 0 is skipped);
                        layer B: the output of the final norm
    tap "block"         the residual stream after l blocks
    tap "block-norm"    that stream through the final norm

The final norm is `norm`. A model that pools before it normalises (global average pooling: BEiT,
EVA, fine-tuned MAE) has its weights in `fc_norm` instead, which is then applied to every token of
the last block's output.

Shapes: B images, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor, nn

from layercache.cache.format.spec import Tap
from layercache.errors import BackboneError, UnknownNameError


@dataclass(frozen=True, kw_only=True)
class TapPoint:
    """The point where one layer is read."""

    layer: int
    """Number of the layer, 1..B."""
    module: nn.Module
    """Module whose output is the hidden state, (B, N, D)."""
    norm: Callable[[Tensor], Tensor] | None
    """Final norm to apply to that output, if any."""


def find_taps(
    module: nn.Module, *, tap: Tap, layers: Sequence[int], architecture: str
) -> tuple[TapPoint, ...]:
    """Return the tap point of every layer.

    Args:
        module: A timm ViT.
        tap: "norm2", "block" or "block-norm".
        layers: Numbers out of 1..B.
        architecture: Name of the model, for errors.

    Raises:
        UnknownNameError: There is no such tap.
        BackboneError: The architecture has no such point.
    """
    if tap not in get_args(Tap):
        raise UnknownNameError("tap", tap, get_args(Tap))
    return tuple(_find(module, tap=tap, layer=layer, architecture=architecture) for layer in layers)


def drop_later_blocks(module: Any, *, tap: Tap, layers: Sequence[int]) -> None:
    """Remove the blocks after the last tap, so that they are not computed."""
    last = max(layers)
    module.blocks = module.blocks[: last + 1 if tap == "norm2" else last]


def _find(module: nn.Module, *, tap: Tap, layer: int, architecture: str) -> TapPoint:
    blocks: list[Any] = list(module.blocks)  # type: ignore[arg-type]
    if tap == "norm2" and layer < len(blocks):
        block = blocks[layer]
        if not _norm2_feeds_mlp(block):
            raise BackboneError(
                f"{architecture}: tap norm2 expects blocks that normalise in norm2 before their "
                f"MLP, got {type(block).__name__}: use tap 'block'"
            )
        return TapPoint(layer=layer, module=block.norm2, norm=None)
    if tap == "block":
        return TapPoint(layer=layer, module=blocks[layer - 1], norm=None)
    norm = _final_norm(module)
    if norm is None:
        raise BackboneError(
            f"{architecture}: tap {tap} needs a final norm for layer {layer}, "
            "and this architecture has none: use tap 'block'"
        )
    applied_in_forward: Any = getattr(module, "norm", None)
    if tap == "norm2" and norm is applied_in_forward:
        return TapPoint(layer=layer, module=norm, norm=None)
    return TapPoint(layer=layer, module=blocks[layer - 1], norm=norm)


def _final_norm(module: nn.Module) -> nn.Module | None:
    """Return the norm that carries the weights after the last block, or None."""
    for name in ("norm", "fc_norm"):
        norm = getattr(module, name, None)
        if isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity):
            return norm
    return None


def _norm2_feeds_mlp(block: nn.Module) -> bool:
    """Return whether the block is pre-norm.

    timm's post-norm blocks also have a norm2, but after the MLP: its output is no hidden state.
    """
    return (
        isinstance(getattr(block, "norm2", None), nn.Module)
        and hasattr(block, "mlp")
        and "Post" not in type(block).__name__
    )
