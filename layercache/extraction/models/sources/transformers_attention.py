"""The class token's attention to the patches in the blocks of transformers.

Its fused attention returns no weights. Hooks keep the queries and keys that the block's own linear
layers return; only the row of the class token is then multiplied and normalised again, in float32.

Shapes: B images, N = prefix + P tokens, H attention heads of width d, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layercache.extraction.models.class_attention import patch_weights
from layercache.extraction.models.module_paths import part

BIAS_KWARGS = ("attention_mask", "relative_position_bias")
"""Arguments of an attention in which BEiT and Data2Vec pass biases of its logits."""
OWN_BIAS = "relative_position_bias"
"""Submodule of an attention that returns a bias of its logits."""


@dataclass(frozen=True, kw_only=True)
class AttentionParts:
    """Modules of one attention."""

    attention: nn.Module
    """The whole attention, which the block calls."""
    query: nn.Module
    """Linear layer D -> H d of the queries."""
    key: nn.Module
    """Linear layer D -> H d of the keys."""
    output: nn.Module
    """Linear layer after it, whose output the tap "attn" reads."""


def class_attention_of(
    parts: AttentionParts, *, num_heads: int
) -> Callable[[int], TransformersClassAttention]:
    """Return what registers the hooks on an attention."""
    return lambda num_prefix_tokens: TransformersClassAttention(
        parts, num_heads=num_heads, num_prefix_tokens=num_prefix_tokens
    )


class TransformersClassAttention:
    """Hooks on one attention of transformers; see `layercache.extraction.models.vit`."""

    def __init__(self, parts: AttentionParts, *, num_heads: int, num_prefix_tokens: int) -> None:
        """Register the hooks."""
        self.weights_bp: Tensor | None = None
        """Attention to the patches in the last forward, float32 (B, P): the mean over attention
        heads, divided by its sum, as prefix tokens have their share as well."""
        self._num_heads = num_heads
        self._num_prefix_tokens = num_prefix_tokens
        self._query_bnd: Tensor
        self._key_bnd: Tensor
        self._biases_1hn: list[Tensor] = []
        self._rope: tuple[Tensor, Tensor] | None = None
        parts.attention.register_forward_pre_hook(self._keep_arguments, with_kwargs=True)
        own_bias = next(
            (module for name, module in parts.attention.named_modules() if name.endswith(OWN_BIAS)),
            None,
        )
        if own_bias is not None:
            own_bias.register_forward_hook(self._keep_bias)
        parts.query.register_forward_hook(self._keep_query)
        parts.key.register_forward_hook(self._keep_key)
        # here and not behind the whole attention, because the tap "attn" reads the same module
        parts.output.register_forward_hook(self._keep_weights)

    def clear(self) -> None:
        """Free the last forward's weights."""
        self.weights_bp = None

    def _keep_arguments(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        biases = (kwargs.get(name) for name in BIAS_KWARGS)
        self._biases_1hn = [bias[:, :, 0] for bias in biases if bias is not None]
        self._rope = kwargs.get("position_embeddings")

    def _keep_bias(self, module: nn.Module, args: Any, bias_1hnn: Tensor) -> None:
        self._biases_1hn.append(bias_1hnn[:, :, 0].clone())  # Data2Vec adds others in place

    def _keep_query(self, module: nn.Module, args: Any, query_bnd: Tensor) -> None:
        self._query_bnd = query_bnd

    def _keep_key(self, module: nn.Module, args: Any, key_bnd: Tensor) -> None:
        self._key_bnd = key_bnd

    def _keep_weights(self, module: nn.Module, args: Any, output: Tensor) -> None:
        b, n, _ = self._key_bnd.shape
        key_bhnd = self._key_bnd.float().view(b, n, self._num_heads, -1).transpose(1, 2)
        query_bhd = self._query_bnd[:, 0].float().view(b, self._num_heads, -1)
        if self._rope is not None:
            key_bhnd = _rotate(key_bhnd, self._rope)
        query_bhd = query_bhd * query_bhd.shape[-1] ** -0.5
        logits_bhn = (key_bhnd @ query_bhd[..., None])[..., 0]
        for bias_1hn in self._biases_1hn:
            logits_bhn = logits_bhn + bias_1hn.float()
        del self._query_bnd, self._key_bnd
        self._biases_1hn, self._rope = [], None
        self.weights_bp = patch_weights(logits_bhn, self._num_prefix_tokens)


def find_attention(block: nn.Module, **paths: tuple[str, ...]) -> AttentionParts | None:
    """Return the parts of a block's attention by the first of their paths that exists, if all do.

    Args:
        block: A block.
        **paths: Field of `AttentionParts` -> dotted paths in the block.
    """
    found = {
        field: next((m for path in options if (m := part(block, path)) is not None), None)
        for field, options in paths.items()
    }
    if any(module is None for module in found.values()):
        return None
    return AttentionParts(**found)  # type: ignore[arg-type]


def _rotate(key_bhnd: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Return keys whose patches have rotary positions; prefix tokens have none.

    Args:
        key_bhnd: Keys.
        rope: Cosines and sines, (P, d) each, for halves of a head that are rotated together.
    """
    cos_pd, sin_pd = (table.float() for table in rope)
    prefix = key_bhnd.shape[2] - len(cos_pd)
    patches_bhpd = key_bhnd[:, :, prefix:]
    first, second = patches_bhpd.chunk(2, dim=-1)
    rotated_bhpd = patches_bhpd * cos_pd + torch.cat([-second, first], -1) * sin_pd
    return torch.cat([key_bhnd[:, :, :prefix], rotated_bhpd], 2)
