"""The attentive head over the tokens of several encoders, as a module.

Shapes: B images, T tokens of all encoders, T_e of encoder e, D_e its width, D the widest, W the
shared width, C classes, H attention heads of width E = 2 floor(W / H).

A token x of encoder e becomes M_e LN_e(x), where LN_e normalizes at the encoder's own width and M_e
is a learned map (W, D_e); this takes the place of LN(x) in the attentive head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layercache.errors import HeadMismatchError
from layercache.heads.attentive import AttentiveHead
from layercache.heads.shape import check_shape
from layercache.probing.heads.attention_ops import LAYER_NORM_EPS
from layercache.probing.heads.multi_encoder import initial_map

if TYPE_CHECKING:
    from torch._prims_common import DeviceLikeType


class MultiEncoderHead(AttentiveHead):
    """Attentive fusion of several encoders: each has a map to the shared width."""

    norm_key: nn.ModuleList  # type: ignore[assignment]
    norm_value: nn.ModuleList  # type: ignore[assignment]

    def __init__(
        self,
        *,
        encoder_tokens: Sequence[int],
        encoder_widths: Sequence[int],
        classes: int,
        width: int | None = None,
        num_heads: int | None = None,
        dropout: float = 0.0,
        normalize: bool = True,
        device: DeviceLikeType | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Start each map as the identity padded with zeros, or to a smaller width at random.

        Args:
            encoder_tokens: T_e of each encoder; the input holds their tokens in this order.
            encoder_widths: D_e of each encoder.
            classes: C, the number of outputs.
            width: W; by default the largest width.
            num_heads: H; by default one for each token.
            dropout: See AttentiveHead.
            normalize: See AttentiveHead.
            device: Device of the parameters.
            dtype: Dtype of the parameters, float32 by default.
        """
        spec = check_shape(
            "attentive",
            tokens=sum(encoder_tokens),
            width=width or max(encoder_widths),
            classes=classes,
            num_heads=num_heads,
            encoder_tokens=tuple(encoder_tokens),
            encoder_widths=tuple(encoder_widths),
        )
        super().__init__(
            tokens=spec.tokens,
            width=spec.width,
            classes=classes,
            num_heads=num_heads,
            dropout=dropout,
            normalize=normalize,
            device=device,
            dtype=dtype,
        )
        self.encoder_tokens, self.encoder_widths = tuple(encoder_tokens), tuple(encoder_widths)
        for name in ("norm_key", "norm_value"):
            norms = [
                nn.LayerNorm(w, eps=LAYER_NORM_EPS, device=device, dtype=dtype)
                for w in encoder_widths
            ]
            setattr(self, name, nn.ModuleList(norms))
        self.map = nn.ModuleList(
            nn.Linear(w, self.width, bias=False, device=device, dtype=dtype) for w in encoder_widths
        )
        generator = torch.Generator().manual_seed(torch.initial_seed())
        start = [initial_map(self.width, w, generator=generator) for w in encoder_widths]
        self.map.load_state_dict({f"{i}.weight": weight for i, weight in enumerate(start)})

    def features(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, D) to the normalized features that the classifier maps, (B, W).

        The tokens of encoder e are the first D_e elements; what is beyond has no effect.
        """
        x = self._check(x)
        values_btw = self._mapped(x, self.norm_value)
        by_head = (*values_btw.shape[:2], self.num_heads, self.head_width)
        values_bhte = self.to_value(values_btw).view(by_head).transpose(1, 2)
        weights_bth = self.attention_dropout(self._softmax(x))
        mixed_bhe = (weights_bth.transpose(1, 2)[:, :, None] @ values_bhte).squeeze(2)
        return self._normalize_features(mixed_bhe.flatten(1))

    def forward_reference(self, x: Tensor) -> Tensor:
        """Compute `forward`, which forms a key and a value of every token itself."""
        return self.forward(x)

    def attention(self, x: Tensor) -> Tensor:
        """Return the attention weights (B, H, T) of tokens (B, T, D), before dropout."""
        return self._softmax(self._check(x)).transpose(1, 2)

    def _softmax(self, x: Tensor) -> Tensor:
        """Return the attention weights (B, T, H) of checked tokens."""
        keys_btw = self._mapped(x, self.norm_key)
        by_head = (*keys_btw.shape[:2], self.num_heads, self.head_width)
        keys_bthe = self.to_key(keys_btw).view(by_head)
        query_he = self.to_query(self.norm_query(self.query)).view(self.num_heads, -1)
        scores_bth: Tensor = (keys_bthe * query_he).sum(-1) * self.head_width**-0.5
        return scores_bth.softmax(1)

    def _mapped(self, x: Tensor, norms: nn.ModuleList) -> Tensor:
        """Return the tokens at the shared width, (B, T, W)."""
        parts = torch.split(x, list(self.encoder_tokens), dim=1)
        return torch.cat(
            [
                linear(norm(part[..., :width]))
                for part, width, norm, linear in zip(
                    parts, self.encoder_widths, norms, self.map, strict=True
                )
            ],
            dim=1,
        )

    def _check(self, x: Tensor) -> Tensor:
        """Return checked tokens in the dtype of the parameters, normalized if requested."""
        expected = (self.tokens, max(self.encoder_widths))
        if x.ndim != 3 or x.shape[1:] != expected:
            raise HeadMismatchError(
                f"expected tokens (images, {expected[0]}, {expected[1]}), got {tuple(x.shape)}: "
                "pad the tokens of narrower encoders with zeros"
            )
        x = x.to(self.query.dtype)
        return F.normalize(x, dim=-1) if self.normalize else x
