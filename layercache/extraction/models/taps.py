"""Points in a ViT where a layer's hidden state is read.

Layers are numbered 1..B, B the number of blocks. Parts have timm's names here; each source
gives their places in its own models (`Block.places`). `find_taps` only finds the modules; the
forward hooks are registered by `Backbone` (backbone.py).

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

A model whose forward does not apply its final norm to every token (timm's `fc_norm` of models that
pool first: BEiT, EVA, fine-tuned MAE) has it applied to the last block's output.

Shapes: B images, N tokens, D width of the tap: the model's own, for "fc1" and "act" the MLP's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from torch import nn

from layercache.cache.format.cache_spec import Tap
from layercache.errors import BackboneError, UnknownNameError
from layercache.extraction.models.vit import Block, Place, ViT

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
    place: Place
    """Place of the hidden state."""
    block: Block
    """Block that the place is in, or behind: its attention weighs the token kind "attn"."""
    norm: nn.Module | None = None
    """Final norm to apply to the hidden state, if any."""


def find_taps(vit: ViT, *, tap: Tap, layers: Sequence[int]) -> tuple[TapPoint, ...]:
    """Return the tap point of every layer.

    Args:
        vit: The model.
        tap: "norm2", "block", "block-norm" or one of INNER_TAPS.
        layers: Numbers out of 1..B.

    Raises:
        UnknownNameError: There is no such tap.
        BackboneError: The architecture has no such point, or layers of different widths there.
    """
    if tap not in get_args(Tap):
        raise UnknownNameError("tap", tap, get_args(Tap))
    find = _find_inner if tap in INNER_TAPS else _find
    points = tuple(find(vit, tap=tap, layer=layer) for layer in layers)
    if len(widths := {point.place.width for point in points}) > 1:
        raise BackboneError(
            f"{vit.kind}: tap {tap} expects one width for all layers, got "
            f"{', '.join(map(str, sorted(widths)))}: choose layers of one width, or tap 'block'"
        )
    return points


def drop_later_blocks(vit: ViT, *, tap: Tap, layers: Sequence[int]) -> None:
    """Remove the blocks after the last tap, so that they are not computed."""
    last = max(layers)
    kept = last + 1 if tap == "norm2" else last
    owner, _, name = vit.blocks_path.rpartition(".")
    parent: Any = vit.module.get_submodule(owner)
    blocks = getattr(parent, name)
    if not vit.is_own:
        setattr(parent, name, blocks[:kept])
        return
    for number in range(kept, len(vit.blocks)):
        blocks[number] = _SkippedBlock(vit.blocks[number].output.index)


class _SkippedBlock(nn.Module):
    """A block that returns its input, alone or in a tuple."""

    def __init__(self, index: int | None) -> None:
        super().__init__()
        self.index = index

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else next(iter(kwargs.values()))
        return hidden if self.index is None else (hidden,) * (self.index + 1)


def _find_inner(vit: ViT, *, tap: Tap, layer: int) -> TapPoint:
    block = vit.blocks[layer - 1]
    if tap not in block.places:
        raise _missing(vit, block, tap=tap, expected=INNER_TAPS[tap])
    return TapPoint(layer=layer, place=block.places[tap], block=block)


def _find(vit: ViT, *, tap: Tap, layer: int) -> TapPoint:
    behind = vit.blocks[layer - 1]
    if tap == "norm2" and layer < len(vit.blocks):
        block = vit.blocks[layer]
        if tap not in block.places:
            raise _missing(
                vit, block, tap=tap, expected="blocks that normalise in norm2 before their MLP"
            )
        return TapPoint(layer=layer, place=block.places[tap], block=block)
    if tap == "block":
        return TapPoint(layer=layer, place=behind.output, block=behind)
    if vit.final_norm is None:
        raise BackboneError(
            f"{vit.kind}: tap {tap} needs a final norm for layer {layer}, "
            "and this architecture has none: use tap 'block'"
        )
    if tap == "norm2" and vit.norm_in_forward:
        place = Place(module=vit.final_norm, width=vit.width)
        return TapPoint(layer=layer, place=place, block=behind)
    return TapPoint(layer=layer, place=behind.output, norm=vit.final_norm, block=behind)


def _missing(vit: ViT, block: Block, *, tap: str, expected: str) -> BackboneError:
    mlp = block.places.get("mlp")
    within = f" with {type(mlp.module).__name__}" if mlp and tap in ("fc1", "act") else ""
    other = "act" if tap == "fc1" and "act" in block.places else "block"
    reason = block.reasons.get(tap) or f"expects {expected}, got {block.kind}{within}"
    return BackboneError(f"{vit.kind}: tap {tap} {reason}: use tap '{other}'")
