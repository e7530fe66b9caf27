"""The attentive head as a module.

Shapes: B images, T tokens of an image, D width of a token, C classes, H attention heads of width
E = 2 floor(D / H), which is d in the formulas.

The attentive head has one learned query u for all images:

    q = W_Q LN_q(u),  k_t = W_K LN_k(x_t),  v_t = W_V LN_v(x_t)
    a_ht = softmax_t(q_h . k_ht / sqrt(d)),  o_h = sum_t a_ht v_ht
    logits = W_C BatchNorm(W_O [o_1 ... o_H] + b_O) + b_C

`forward_reference` computes it like this. `forward` forms no key and no value. With
z = (x - mean) / std, which LN_k and LN_v share, LN(x) = gamma z + beta, and

    q_h . k_ht = (gamma_k W_K,h^T q_h) . z_t + the same for every t, which softmax ignores
    o_h        = (W_V,h gamma_v) sum_t a_ht z_t + (W_V,h beta_v) sum_t a_ht

These are the same logits and gradients for 1 / (2 d) of the products in the two large maps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layercache.heads.shape import check_input, check_shape
from layercache.probing.heads.attention_ops import BATCH_NORM_MOMENTUM, LAYER_NORM_EPS, QUERY_STD
from layercache.probing.heads.attentive import BATCH_NORM_EPS

if TYPE_CHECKING:
    from torch._prims_common import DeviceLikeType


class AttentiveHead(nn.Module):
    """Attentive Multi-Layer Fusion: each attention head mixes the tokens by weights of its own."""

    def __init__(
        self,
        *,
        tokens: int,
        width: int,
        classes: int,
        num_heads: int | None = None,
        dropout: float = 0.0,
        normalize: bool = True,
        device: DeviceLikeType | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draw the query from N(0, 0.02), and the maps as torch.nn.Linear does.

        Args:
            tokens: T.
            width: D.
            classes: C, the number of outputs.
            num_heads: H; by default one for each token. For all tokens of the last layer the paper
                takes 8.
            dropout: Rate at which attention weights are dropped in training.
            normalize: L2-normalize each token first, as `layercache.probe` does. Switch it off for
                tokens that are normalized already, such as those with noise added afterwards.
            device: Device of the parameters.
            dtype: Dtype of the parameters, float32 by default.
        """
        super().__init__()
        spec = check_shape(
            "attentive", tokens=tokens, width=width, classes=classes, num_heads=num_heads
        )
        self.tokens, self.width, self.classes = tokens, width, classes
        self.num_heads, self.head_width = spec.num_heads, spec.head_width
        self.normalize = normalize
        inner_width = self.num_heads * self.head_width
        self.query = nn.Parameter(torch.empty(width, device=device, dtype=dtype))
        nn.init.normal_(self.query, std=QUERY_STD)
        self.norm_query = nn.LayerNorm(width, eps=LAYER_NORM_EPS, device=device, dtype=dtype)
        self.norm_key = nn.LayerNorm(width, eps=LAYER_NORM_EPS, device=device, dtype=dtype)
        self.norm_value = nn.LayerNorm(width, eps=LAYER_NORM_EPS, device=device, dtype=dtype)
        self.to_query = nn.Linear(width, inner_width, bias=False, device=device, dtype=dtype)
        self.to_key = nn.Linear(width, inner_width, bias=False, device=device, dtype=dtype)
        self.to_value = nn.Linear(width, inner_width, bias=False, device=device, dtype=dtype)
        self.attention_dropout = nn.Dropout(dropout)
        self.output = nn.Linear(inner_width, width, device=device, dtype=dtype)
        self.batch_norm = nn.BatchNorm1d(
            width, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM, device=device, dtype=dtype
        )
        self.classifier = nn.Linear(width, classes, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, D) of any float dtype to logits (B, C).

        In training mode BatchNorm needs at least two images.
        """
        logits: Tensor = self.classifier(self.features(x))
        return logits

    def features(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, D) to the normalized features that the classifier maps, (B, D)."""
        z_btd = self._standardize(x)
        weights_bth = self.attention_dropout(self._scores(z_btd).softmax(1))
        mixed_hbd = (weights_bth.transpose(1, 2) @ z_btd).transpose(0, 1)
        maps_hed = self.to_value.weight.view(self.num_heads, self.head_width, self.width)
        values_hbe = mixed_hbd @ (maps_hed * self.norm_value.weight).transpose(1, 2)
        shift_h1e = (maps_hed @ self.norm_value.bias)[:, None]
        values_hbe = values_hbe + weights_bth.sum(1).t()[..., None] * shift_h1e
        return self._normalize_features(values_hbe.transpose(0, 1).flatten(1))

    def forward_reference(self, x: Tensor) -> Tensor:
        """Compute `forward` as the paper writes it, with a key and a value of every token."""
        x_btd = self._embed(check_input(self, x, dtype=self.query.dtype))
        by_head = (*x_btd.shape[:2], self.num_heads, self.head_width)
        query = self.to_query(self.norm_query(self.query)).view(self.num_heads, 1, self.head_width)
        keys_bhtd = self.to_key(self.norm_key(x_btd)).view(by_head).transpose(1, 2)
        values_bhtd = self.to_value(self.norm_value(x_btd)).view(by_head).transpose(1, 2)
        scores = query @ keys_bhtd.transpose(2, 3) * self.head_width**-0.5  # (B, H, 1, T)
        weights_bth = self.attention_dropout(scores.squeeze(2).softmax(-1).transpose(1, 2))
        mixed = weights_bth.transpose(1, 2)[:, :, None] @ values_bhtd  # (B, H, 1, d)
        logits: Tensor = self.classifier(self._normalize_features(mixed.flatten(1)))
        return logits

    def attention(self, x: Tensor) -> Tensor:
        """Return the attention weights (B, H, T) of tokens (B, T, D), before dropout.

        The weights of each attention head sum to 1 over the tokens.
        """
        return self._scores(self._standardize(x)).softmax(1).transpose(1, 2)

    def extra_repr(self) -> str:
        """Return the shape for `repr`."""
        return (
            f"tokens={self.tokens}, width={self.width}, num_heads={self.num_heads}, "
            f"normalize={self.normalize}"
        )

    def _embed(self, x_btd: Tensor) -> Tensor:
        return x_btd

    def _standardize(self, x: Tensor) -> Tensor:
        """Return z, (B, T, D)."""
        x_btd = self._embed(check_input(self, x, dtype=self.query.dtype))
        return F.layer_norm(x_btd, (self.width,), eps=LAYER_NORM_EPS)

    def _scores(self, z_btd: Tensor) -> Tensor:
        """Return the scores before softmax, (B, T, H), without what is the same for every token."""
        query = self.to_query(self.norm_query(self.query)).view(self.num_heads, 1, self.head_width)
        maps_hed = self.to_key.weight.view(self.num_heads, self.head_width, self.width)
        directions_hd = (query @ maps_hed).squeeze(1) * self.norm_key.weight * self.head_width**-0.5
        # The bias has no effect, but DistributedDataParallel expects a gradient of every parameter.
        no_effect = 0 * self.norm_key.bias.sum()
        return F.linear(z_btd, directions_hd) + no_effect

    def _normalize_features(self, values: Tensor) -> Tensor:
        """Map the joined outputs of the attention heads, (B, H d), to features (B, D)."""
        features: Tensor = self.batch_norm(self.output(values))
        return features
