"""Dotted paths of the modules in a block, one table for one structure of blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from layercache.errors import BackboneError
from layercache.extraction.models.vit import Block, ClassAttention, Place


@dataclass(frozen=True)
class Path:
    """A place by the dotted path of its module in the block."""

    path: str
    """Dotted path, e.g. "mlp.fc1"."""
    is_input: bool = False
    """The hidden state is the module's first input, not its output."""
    index: int | None = None
    """Index of the hidden state in the tuple that the module returns."""


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Paths of the places of a block; None, or a path that leads nowhere, for a missing one.

    A text stands for the output of the module at that path.
    """

    norm1: str | Path | None = None
    """Input of the attention. As the attention's input, the token kind "attn" is available."""
    attn: str | Path | None = None
    """Attention's output, before the residual connection."""
    norm2: str | Path | None = None
    """Input of the MLP."""
    fc1: str | Path | None = None
    """Output of the MLP's first linear layer."""
    act: str | Path | None = None
    """The MLP's inner activation."""
    fc2: str | None = None
    """The MLP's second linear layer, whose input has the width of `act`."""
    mlp: str | Path | None = None
    """The MLP's output, before the residual connection."""
    output_index: int | None = None
    """Index of the hidden state in the tuple that a block returns; None if it returns it alone."""


AttentionOf = Callable[[nn.Module], Callable[[int], ClassAttention] | None]
"""Block -> `Block.class_attention`."""


def find_blocks(
    module: nn.Module,
    blocks_path: str,
    paths: Paths | Callable[[nn.Module], Paths],
    *,
    width: int,
    inner_width: int | None = None,
    class_attention: AttentionOf | None = None,
) -> tuple[Block, ...]:
    """Return the blocks of a module.

    Args:
        module: A ViT.
        blocks_path: Dotted path of its list of blocks.
        paths: Places in a block, or a function from the block to them.
        width: D of the residual stream.
        inner_width: D of "fc1" and "act" where their linear layers have no `out_features` or
            `in_features`; None: these places are left out.
        class_attention: Function from a block to its `Block.class_attention`.

    Raises:
        BackboneError: There is no list of blocks.
    """
    blocks = part(module, blocks_path)
    if not isinstance(blocks, nn.ModuleList | nn.Sequential) or not len(blocks):
        raise BackboneError(
            f"{type(module).__name__}: expected blocks {blocks_path!r} to be an nn.ModuleList or "
            f"nn.Sequential of blocks, got {type(blocks).__name__}"
        )
    return tuple(
        Block(
            output=Place(module=block, width=width, index=table.output_index),
            places=_places(block, table, width=width, inner_width=inner_width),
            class_attention=class_attention(block) if class_attention else None,
        )
        for block in blocks
        for table in [paths(block) if callable(paths) else paths]
    )


def hidden_state(place: Place, args: Any, kwargs: Any, output: Any) -> Any:
    """Return the hidden state of a place from a call of its module, as a forward hook gets it."""
    value = output
    if place.is_input:
        value = args[0] if args else next(iter(kwargs.values()))
    return value if place.index is None else value[place.index]


def part(module: nn.Module, path: str) -> Any:
    """Return what is at a dotted path of a module, or None."""
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def _places(
    block: nn.Module, table: Paths, *, width: int, inner_width: int | None
) -> dict[str, Place]:
    fc1, fc2 = (
        part(block, path.path) if path else None for path in map(_path, (table.fc1, table.fc2))
    )
    widths = {
        "fc1": getattr(fc1, "out_features", inner_width),
        "act": getattr(fc2, "in_features", inner_width),
    }
    places = {}
    for tap in ("norm1", "attn", "norm2", "fc1", "act", "mlp"):
        path = _path(getattr(table, tap))
        found = part(block, path.path) if path else None
        place_width = widths.get(tap, width)
        if path and isinstance(found, nn.Module) and place_width is not None:
            places[tap] = Place(
                module=found, width=place_width, is_input=path.is_input, index=path.index
            )
    return places


def _path(value: str | Path | None) -> Path | None:
    return Path(value) if isinstance(value, str) else value
