"""The class token's attention to the patches; each source has its own hooks for its logits.

Shapes: B images, N = prefix + P tokens, H attention heads.
"""

from __future__ import annotations

from torch import Tensor

from layercache.errors import BackboneError
from layercache.extraction.models.vit import Block


def check_class_attention(block: Block, *, architecture: str) -> None:
    """Check that the class token's attention in a block can be computed.

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


def patch_weights(logits_bhn: Tensor, num_prefix_tokens: int) -> Tensor:
    """Return the weights of the patches, float32 (B, P), which add up to one.

    Args:
        logits_bhn: The class token's attention logits, float32.
        num_prefix_tokens: Number of tokens before the first patch.
    """
    weights_bn = logits_bhn.softmax(-1).mean(1)
    weights_bp = weights_bn[:, num_prefix_tokens:]
    return weights_bp / weights_bp.sum(1, keepdim=True)
