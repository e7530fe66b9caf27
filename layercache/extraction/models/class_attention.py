"""Whether the class token's attention in a block can be told; each source has its own hooks."""

from __future__ import annotations

from layercache.errors import BackboneError
from layercache.extraction.models.vit import Block


def check_class_attention(block: Block, *, architecture: str) -> None:
    """Check that the class token's attention in a block can be told.

    Raises:
        BackboneError: It cannot.
    """
    if block.class_attention is None:
        attention = block.places.get("attn")
        within = f" with {type(attention.module).__name__}" if attention else ""
        raise BackboneError(
            f"{architecture}: tokens 'attn' expect blocks with one softmax attention, got "
            f"{block.kind}{within}: leave 'attn' out"
        )
