"""Efficient probing as a module.

Shapes: B images, T tokens of an image, D width of a token, C classes, H queries, d = floor(D / H).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layercache.heads.shape import check_input, check_shape
from layercache.probing.heads.attention_ops import BATCH_NORM_MOMENTUM, LAYER_NORM_EPS, QUERY_STD
from layercache.probing.heads.efficient import BATCH_NORM_EPS

if TYPE_CHECKING:
    from torch._prims_common import DeviceLikeType


class EfficientHead(nn.Module):
    """Efficient probing (arXiv 2506.10178): several queries attend to the tokens without keys.

    Query h weights the h-th share of each token's values. Tokens are standardized over their
    elements first, because those of a cache are normalized to length 1.
    """

    def __init__(
        self,
        *,
        tokens: int,
        width: int,
        classes: int,
        num_queries: int | None = None,
        dropout: float = 0.0,
        normalize: bool = True,
        device: DeviceLikeType | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draw the queries from N(0, 0.02), and the maps as torch.nn.Linear does.

        Args:
            tokens: T.
            width: D.
            classes: C, the number of outputs.
            num_queries: H; by default 32, or D if that is less.
            dropout: Rate at which attention weights are dropped in training; 0 in the paper.
            normalize: L2-normalize each token first, as `layercache.probe` does.
            device: Device of the parameters.
            dtype: Dtype of the parameters, float32 by default.
        """
        super().__init__()
        spec = check_shape(
            "efficient", tokens=tokens, width=width, classes=classes, num_heads=num_queries
        )
        self.tokens, self.width, self.classes = tokens, width, classes
        self.num_queries, self.value_width = spec.num_heads, spec.head_width
        self.normalize = normalize
        inner_width = self.num_queries * self.value_width
        self.queries = nn.Parameter(
            torch.empty(self.num_queries, width, device=device, dtype=dtype)
        )
        nn.init.normal_(self.queries, std=QUERY_STD)
        self.to_value = nn.Linear(width, inner_width, bias=False, device=device, dtype=dtype)
        self.attention_dropout = nn.Dropout(dropout)
        self.batch_norm = nn.BatchNorm1d(
            inner_width,
            eps=BATCH_NORM_EPS,
            momentum=BATCH_NORM_MOMENTUM,
            affine=False,
            device=device,
            dtype=dtype,
        )
        self.classifier = nn.Linear(inner_width, classes, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, D) of any float dtype to logits (B, C).

        In training mode BatchNorm needs at least two images.
        """
        z_btd = self._standardize(x)
        weights_bth = self.attention_dropout(self._scores(z_btd).softmax(1))
        values_bthd = self.to_value(z_btd).unflatten(2, (self.num_queries, self.value_width))
        mixed_bhd = (weights_bth[..., None] * values_bthd).sum(1)
        logits: Tensor = self.classifier(self.batch_norm(mixed_bhd.flatten(1)))
        return logits

    def attention(self, x: Tensor) -> Tensor:
        """Return the attention weights (B, H, T) of tokens (B, T, D), before dropout.

        The weights of each query sum to 1 over the tokens.
        """
        return self._scores(self._standardize(x)).softmax(1).transpose(1, 2)

    def extra_repr(self) -> str:
        """Return the shape for `repr`."""
        return (
            f"tokens={self.tokens}, width={self.width}, num_queries={self.num_queries}, "
            f"normalize={self.normalize}"
        )

    def _standardize(self, x: Tensor) -> Tensor:
        """Return z, (B, T, D)."""
        x = check_input(self, x, dtype=self.queries.dtype)
        return F.layer_norm(x, (self.width,), eps=LAYER_NORM_EPS)

    def _scores(self, z_btd: Tensor) -> Tensor:
        """Return the scores before softmax, (B, T, H)."""
        return F.linear(z_btd, self.queries * self.width**-0.5)
