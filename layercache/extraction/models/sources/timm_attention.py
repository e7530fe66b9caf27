"""The class token's attention to the patches, from the queries and keys of a block's own forward.

timm's attention runs fused and returns no weights. Its modules pass queries and keys through
`q_norm` and `k_norm` (identities in most models), where hooks pick them up; only the row of the
class token is then multiplied and normalised again, in float32. BEiT's attention has no such place,
so its query is computed again from the attention's input.

Shapes: B images, N = prefix + P tokens, H attention heads of width d, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from timm.layers.attention import Attention, AttentionRope
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from torch import Tensor, einsum, nn

from layercache.extraction.models.class_attention import patch_weights

SUPPORTED = (Attention, AttentionRope, EvaAttention, BeitAttention)


def class_attention_of(block: nn.Module) -> Callable[[int], TimmClassAttention] | None:
    """Return what registers the hooks on a block's attention, or None if there is no such place."""
    attention = getattr(block, "attn", None)
    if not isinstance(attention, SUPPORTED):
        return None
    return lambda num_prefix_tokens: TimmClassAttention(
        attention, num_prefix_tokens=num_prefix_tokens
    )


class TimmClassAttention:
    """Hooks on one attention module of timm; see `layercache.extraction.models.vit`."""

    def __init__(self, attention: Any, *, num_prefix_tokens: int) -> None:
        """Register the hooks on an attention that passes `check_class_attention`."""
        self.weights_bp: Tensor | None = None
        """Attention to the patches in the last forward, float32 (B, P): the mean over attention
        heads, divided by its sum, as prefix tokens have their share as well."""
        self._num_prefix_tokens = num_prefix_tokens
        self._query: Tensor
        self._key: Tensor
        if not isinstance(attention, BeitAttention):
            attention.q_norm.register_forward_hook(self._keep_query)
            attention.k_norm.register_forward_hook(self._keep_key)
        attention.register_forward_hook(self._keep_weights, with_kwargs=True)

    def clear(self) -> None:
        """Forget the last forward."""
        self.weights_bp = None

    def _keep_query(self, module: nn.Module, args: Any, query_bhnd: Tensor) -> None:
        self._query = query_bhnd

    def _keep_key(self, module: nn.Module, args: Any, key_bhnd: Tensor) -> None:
        self._key = key_bhnd

    def _keep_weights(self, attention: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        if isinstance(attention, BeitAttention):
            logits_bhn = _beit_logits(attention, args[0], kwargs.get("shared_rel_pos_bias"))
        else:
            logits_bhn = _logits(attention, self._query, self._key, kwargs.get("rope"))
            del self._query, self._key
        self.weights_bp = patch_weights(logits_bhn, self._num_prefix_tokens)


def _logits(attention: Any, query_bhnd: Tensor, key_bhnd: Tensor, rope: Tensor | None) -> Tensor:
    """Return the class token's logits, float32 (B, H, N); it has no rotary position itself."""
    if rope is not None:
        prefix = attention.num_prefix_tokens
        half = getattr(attention, "rotate_half", False)
        patches = apply_rot_embed_cat(key_bhnd[:, :, prefix:], rope, half=half)
        key_bhnd = torch.cat([key_bhnd[:, :, :prefix], patches.type_as(key_bhnd)], dim=2)
    query_bhd = query_bhnd[:, :, 0].float() * attention.scale
    groups = query_bhd.shape[1] // key_bhnd.shape[1]
    key_bhnd = key_bhnd.float().repeat_interleave(groups, 1) if groups > 1 else key_bhnd.float()
    logits_bhn: Tensor = (key_bhnd @ query_bhd[..., None])[..., 0]
    return logits_bhn


def _beit_logits(attention: Any, x_bnd: Tensor, shared_bias: Tensor | None) -> Tensor:
    """Return the class token's logits of BEiT's attention, with its position bias (B, H, N)."""
    heads = attention.num_heads
    w_query, w_key, _ = attention.qkv.weight.float().chunk(3)
    x_bnd = x_bnd.float()
    bias = attention.q_bias
    query = F.linear(x_bnd[:, 0], w_query, None if bias is None else bias.float())
    query_bhd = query.view(len(x_bnd), heads, -1) * attention.scale
    # q (W x) = (W^T q) x, so the keys of all tokens need not be computed (their bias is zero)
    map_bhc = einsum("bhd,hdc->bhc", query_bhd, w_key.view(heads, -1, x_bnd.shape[-1]))
    logits_bhn: Tensor = map_bhc @ x_bnd.transpose(1, 2)
    if attention.relative_position_bias_table is not None:
        row = attention.relative_position_index[0]
        logits_bhn = logits_bhn + attention.relative_position_bias_table[row].T.float()
    if shared_bias is not None:
        logits_bhn = logits_bhn + shared_bias[:, :, 0].float()
    return logits_bhn
