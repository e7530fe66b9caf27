"""Where a layer's hidden state is read in a timm ViT.

Layers count 1..B. tap "norm2": for l < B the output of `blocks[l].norm2` (so block 0 is skipped), for B the final norm.
tap "block": the residual stream after l blocks. tap "block-norm": that stream through the final norm.

The final norm is `norm`; a model that pools before it normalises (global average pooling: BEiT, EVA, fine-tuned MAE) has its weights in
`fc_norm` instead, and these are then applied to every token of the last block's output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from layercache.cache.format.spec import Tap
from layercache.errors import BackboneError, UnknownNameError

TAPS: tuple[Tap, ...] = ("norm2", "block", "block-norm")


@dataclass(frozen=True, kw_only=True)
class TapPoint:
    """One layer's place."""

    layer: int
    """Out of 1..B."""
    module: nn.Module
    """Its output is the hidden state, (B, N, D)."""
    then: Callable[[Tensor], Tensor] | None
    """Applied to that output before the tokens are read: the final norm, or nothing."""


def final_norm(module: nn.Module) -> nn.Module | None:
    """The normalisation that carries the weights after the last block, or None."""
    for name in ("norm", "fc_norm"):
        norm = getattr(module, name, None)
        if isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity):
            return norm
    return None


def find_taps(
    module: nn.Module, *, tap: Tap, layers: Sequence[int], architecture: str
) -> tuple[TapPoint, ...]:
    """The places of `layers`. Raises BackboneError where the architecture has none."""
    if tap not in TAPS:
        raise UnknownNameError("tap", tap, TAPS)
    return tuple(_find(module, tap=tap, layer=layer, architecture=architecture) for layer in layers)


def drop_later_blocks(module: Any, *, tap: Tap, layers: Sequence[int]) -> None:
    """Blocks after the last tap are not computed."""
    last = max(layers)
    module.blocks = module.blocks[: last + 1 if tap == "norm2" else last]


def _find(module: nn.Module, *, tap: Tap, layer: int, architecture: str) -> TapPoint:
    blocks: list[Any] = list(module.blocks)  # type: ignore[arg-type]
    if tap == "norm2" and layer < len(blocks):
        block = blocks[layer]
        if not _norm2_feeds_mlp(block):
            raise BackboneError(
                f"{architecture}: tap norm2 expects blocks that normalise in norm2 before their MLP, got {type(block).__name__}: use --tap block"
            )
        return TapPoint(layer=layer, module=block.norm2, then=None)
    if tap == "block":
        return TapPoint(layer=layer, module=blocks[layer - 1], then=None)
    norm = final_norm(module)
    if norm is None:
        raise BackboneError(
            f"{architecture}: tap {tap} needs a final norm for layer {layer}, and this architecture has none: use --tap block"
        )
    in_forward: Any = getattr(module, "norm", None)
    if tap == "norm2" and norm is in_forward:
        return TapPoint(layer=layer, module=norm, then=None)
    return TapPoint(layer=layer, module=blocks[layer - 1], then=norm)


def _norm2_feeds_mlp(block: nn.Module) -> bool:
    """Pre-norm blocks only: timm's post-norm blocks also have a norm2, after the MLP, and its output is no hidden state."""
    return (
        isinstance(getattr(block, "norm2", None), nn.Module)
        and hasattr(block, "mlp")
        and "Post" not in type(block).__name__
    )
