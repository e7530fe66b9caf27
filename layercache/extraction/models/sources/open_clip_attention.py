"""The class token's attention to the patches in the blocks of OpenCLIP.

Its attention runs fused and returns no weights. Only the row of the class token is computed again
from the attention's input, in float32.

Shapes: B images, N = prefix + P tokens, H attention heads of width d, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, einsum, nn

from layercache.extraction.models.class_attention import patch_weights


def class_attention_of(block: nn.Module) -> Callable[[int], OpenClipClassAttention] | None:
    """Return what registers the hooks on a block's attention, or None if there is no such place."""
    attention: Any = getattr(block, "attn", None)
    plain = isinstance(attention, nn.MultiheadAttention) and attention.batch_first
    norms = (getattr(attention, name, None) for name in ("ln_q", "ln_k"))
    softmax = getattr(attention, "logit_scale", 0) is None
    custom = softmax and all(isinstance(norm, nn.Identity) for norm in norms)
    if not (plain or custom) or attention.in_proj_weight is None:
        return None
    return lambda num_prefix_tokens: OpenClipClassAttention(
        attention, num_prefix_tokens=num_prefix_tokens
    )


class OpenClipClassAttention:
    """Hooks on one attention of OpenCLIP; see `layercache.extraction.models.vit`."""

    def __init__(self, attention: Any, *, num_prefix_tokens: int) -> None:
        """Register the hook."""
        self.weights_bp: Tensor | None = None
        """Attention to the patches in the last forward, float32 (B, P): the mean over attention
        heads, divided by its sum, as prefix tokens have their share as well."""
        self._num_prefix_tokens = num_prefix_tokens
        attention.register_forward_hook(self._keep_weights)

    def clear(self) -> None:
        """Free the last forward's weights."""
        self.weights_bp = None

    def _keep_weights(self, attention: Any, args: Any, output: Any) -> None:
        x_bnd, heads = args[0].float(), attention.num_heads
        w_query, w_key, _ = attention.in_proj_weight.float().chunk(3)
        bias = attention.in_proj_bias
        query = F.linear(x_bnd[:, 0], w_query, None if bias is None else bias.float().chunk(3)[0])
        query_bhd = query.view(len(x_bnd), heads, -1)
        query_bhd = query_bhd * query_bhd.shape[-1] ** -0.5
        # q (W x) = (W^T q) x, so the keys of all tokens need not be computed; their bias adds the
        # same to every logit
        map_bhc = einsum("bhd,hdc->bhc", query_bhd, w_key.view(heads, -1, x_bnd.shape[-1]))
        logits_bhn = map_bhc @ x_bnd.transpose(1, 2)
        self.weights_bp = patch_weights(logits_bhn, self._num_prefix_tokens)
