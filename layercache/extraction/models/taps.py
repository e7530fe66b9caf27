"""Points in a timm ViT where a layer's hidden state is read.

Layers are numbered 1..B, B the number of blocks.

    tap "norm2"         layer l < B: the output of `blocks[l].norm2` (so block 0 is skipped);
                        layer B: the output of the final norm
    tap "block"         the residual stream after l blocks
    tap "block-norm"    that stream through the final norm

The other taps read inside the l-th block, `blocks[l - 1]`, of every layer 1..B alike:

    tap "norm1"         the output of `norm1`, which the attention reads
    tap "attn"          the output of `attn`, before layer scale and the residual connection
    tap "fc1"           the output of the MLP's first linear layer (both halves of a packed SwiGLU)
    tap "act"           the MLP's inner activation, which its second linear layer reads (before an
                        inner norm, if there is one): GELU(fc1), for a SwiGLU SiLU(gate) * value
    tap "mlp"           the output of `mlp`, before layer scale and the residual connection

The final norm is `norm`. A model that pools before it normalises (global average pooling: BEiT,
EVA, fine-tuned MAE) has its weights in `fc_norm` instead, which is then applied to every token of
the last block's output.

Shapes: B images, N tokens, D width of the tap: the model's own, for "fc1" and "act" the MLP's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from timm.layers import GluMlp, Mlp, SwiGLU
from torch import Tensor, nn

from layercache.cache.format.spec import Tap
from layercache.errors import BackboneError, UnknownNameError

INNER_TAPS: dict[str, str] = {
    "norm1": "blocks that normalise in norm1 before their attention",
    "attn": "blocks with one attention module",
    "fc1": "blocks whose MLP has one first linear layer",
    "act": "blocks whose MLP has an inner activation",
    "mlp": "blocks with one MLP",
}
"""Tap inside a block -> the blocks that have it, for errors."""


@dataclass(frozen=True, kw_only=True)
class TapPoint:
    """The point where one layer is read."""

    layer: int
    """Number of the layer, 1..B."""
    module: nn.Module
    """Module whose output is the hidden state, (B, N, D)."""
    is_input: bool = False
    """The hidden state is the module's input instead."""
    block: nn.Module
    """Block that the point is in, or behind: its attention weighs the token kind "attn"."""
    norm: Callable[[Tensor], Tensor] | None = None
    """Final norm to apply to that output, if any."""
    width: int
    """D, the length of a token."""


def find_taps(
    module: nn.Module, *, tap: Tap, layers: Sequence[int], architecture: str
) -> tuple[TapPoint, ...]:
    """Return the tap point of every layer.

    Args:
        module: A timm ViT.
        tap: "norm2", "block", "block-norm" or one of INNER_TAPS.
        layers: Numbers out of 1..B.
        architecture: Name of the model, for errors.

    Raises:
        UnknownNameError: There is no such tap.
        BackboneError: The architecture has no such point, or layers of different widths there.
    """
    if tap not in get_args(Tap):
        raise UnknownNameError("tap", tap, get_args(Tap))
    find = _find_inner if tap in INNER_TAPS else _find
    points = tuple(
        find(module, tap=tap, layer=layer, architecture=architecture) for layer in layers
    )
    if len(widths := {point.width for point in points}) > 1:
        raise BackboneError(
            f"{architecture}: tap {tap} expects one width for all layers, got "
            f"{', '.join(map(str, sorted(widths)))}: choose layers of one width, or tap 'block'"
        )
    return points


def drop_later_blocks(module: Any, *, tap: Tap, layers: Sequence[int]) -> None:
    """Remove the blocks after the last tap, so that they are not computed."""
    last = max(layers)
    module.blocks = module.blocks[: last + 1 if tap == "norm2" else last]


def _find_inner(module: Any, *, tap: Tap, layer: int, architecture: str) -> TapPoint:
    block: Any = module.blocks[layer - 1]
    mlp: Any = getattr(block, "mlp", None)
    part = _inner_module(block, mlp, tap)
    if part is None:
        other = "act" if tap == "fc1" and isinstance(mlp, SwiGLU) else "block"
        within = f" with {type(mlp).__name__}" if isinstance(mlp, nn.Module) else ""
        raise BackboneError(
            f"{architecture}: tap {tap} expects {INNER_TAPS[tap]}, got {type(block).__name__}"
            f"{within}: use tap '{other}'"
        )
    width = module.embed_dim
    if tap in ("fc1", "act"):
        width = mlp.fc1.out_features if tap == "fc1" else mlp.fc2.in_features
    return TapPoint(layer=layer, module=part, is_input=tap == "norm1", block=block, width=width)


def _inner_module(block: Any, mlp: Any, tap: Tap) -> nn.Module | None:
    """Return the module that a tap of INNER_TAPS reads, or None if a block has none."""
    attention: nn.Module | None = getattr(block, "attn", None)
    if tap == "norm1":
        # read as the attention's input, when the attention's weights are known too
        return attention if hasattr(block, "norm1") and _is_pre_norm(block) else None
    if tap == "attn":
        return attention
    if tap == "mlp":
        return mlp  # type: ignore[no-any-return]
    if not isinstance(mlp, Mlp | GluMlp | SwiGLU):
        return None
    # dropout does nothing in evaluation mode, and its input is no module's output in a gated MLP
    return getattr(mlp, "fc1", None) if tap == "fc1" else mlp.drop1


def _find(module: Any, *, tap: Tap, layer: int, architecture: str) -> TapPoint:
    blocks: list[Any] = list(module.blocks)
    behind, width = blocks[layer - 1], module.embed_dim
    if tap == "norm2" and layer < len(blocks):
        block = blocks[layer]
        if not _norm2_feeds_mlp(block):
            raise BackboneError(
                f"{architecture}: tap norm2 expects blocks that normalise in norm2 before their "
                f"MLP, got {type(block).__name__}: use tap 'block'"
            )
        return TapPoint(layer=layer, module=block.norm2, block=block, width=width)
    if tap == "block":
        return TapPoint(layer=layer, module=behind, block=behind, width=width)
    norm = _final_norm(module)
    if norm is None:
        raise BackboneError(
            f"{architecture}: tap {tap} needs a final norm for layer {layer}, "
            "and this architecture has none: use tap 'block'"
        )
    applied_in_forward: Any = getattr(module, "norm", None)
    if tap == "norm2" and norm is applied_in_forward:
        return TapPoint(layer=layer, module=norm, block=behind, width=width)
    return TapPoint(layer=layer, module=behind, norm=norm, block=behind, width=width)


def _final_norm(module: nn.Module) -> nn.Module | None:
    """Return the norm that carries the weights after the last block, or None."""
    for name in ("norm", "fc_norm"):
        norm = getattr(module, name, None)
        if isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity):
            return norm
    return None


def _norm2_feeds_mlp(block: nn.Module) -> bool:
    """Return whether the block normalises in norm2 before its MLP."""
    return (
        isinstance(getattr(block, "norm2", None), nn.Module)
        and hasattr(block, "mlp")
        and _is_pre_norm(block)
    )


def _is_pre_norm(block: nn.Module) -> bool:
    """Return whether a block's norms precede its attention and MLP.

    timm's post-norm blocks have norms of the same names behind them, whose outputs are no hidden
    states.
    """
    return "Post" not in type(block).__name__
