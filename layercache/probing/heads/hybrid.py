"""The attentive head with a learned embedding per layer and kind of token, added to the tokens.

Shapes: as in attentive.py, and K embeddings; k(s) is the index of token s's embedding.

The tokens x_s + e_k(s) differ between configurations but need not be formed. With c and e centered
over their D elements, the standardized token is

    z_s = r_s (c_s + e_k(s)),    r_s = 1 / sqrt((|c_s|^2 + 2 c_s . e_k(s) + |e_k(s)|^2) / D + eps)

so a score is r_s (m . c_s + m . e_k(s)), and a weighted sum of tokens is
sum_s (a_s r_s) c_s + sum_k (sum_{s in k} a_s r_s) e_k. The centered token c, which all
configurations share, takes the place of z; the terms that are added have the size of the scores.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from layercache.probing.heads.attention_ops import (
    LAYER_NORM_EPS,
    multiply_tokens,
    softmax_over_tokens,
)
from layercache.probing.heads.attentive import BatchedAttentiveHead
from layercache.probing.heads.outer_product import OuterProducts
from layercache.probing.heads.spec import HeadSpec

EMBEDDING_STD = 0.02


class BatchedHybridHead(BatchedAttentiveHead):
    """G attentive heads with the additional parameter "embedding" (G, K, D)."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.embedding_ids = torch.tensor(spec.embedding_ids)

    def init_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return those of the attentive head, and embeddings drawn from N(0, 0.02)."""
        n_embeddings = int(self.embedding_ids.max()) + 1
        parameters = super().init_parameters(generator)
        parameters["embedding"] = torch.empty(n_embeddings, self.spec.width).normal_(
            0, EMBEDDING_STD, generator=generator
        )
        return parameters

    def preprocess(self, x_bsd: Tensor) -> Tensor:
        """Return the tokens centered over their elements, (B, S, D)."""
        return x_bsd - x_bsd.mean(-1, keepdim=True)

    def attention(
        self,
        parameters: Mapping[str, Tensor],
        preprocessed: Tensor,
        outer: OuterProducts | None = None,
        kept_bs: Tensor | None = None,
    ) -> Tensor:
        """Return attention weights (B, S, G, H) before dropout; they sum to 1 over S.

        Tokens that are not in `kept_bs`, bool (B, S), have weight 0.
        """
        directions_ghd, e_gkd = self._directions(parameters, outer), _centered_embedding(parameters)
        of_embeddings_sgh = torch.bmm(e_gkd, directions_ghd.transpose(1, 2))[
            :, self.embedding_ids
        ].transpose(0, 1)
        scores_bsgh = multiply_tokens(preprocessed, directions_ghd) + of_embeddings_sgh
        scaled_bsgh = scores_bsgh * self._scale(preprocessed, e_gkd)[..., None]
        return softmax_over_tokens(scaled_bsgh, kept_bs)

    def _mix(
        self,
        p: Mapping[str, Tensor],
        weights_bsgh: Tensor,
        preprocessed: Tensor,
        maps_ghed: Tensor,
        excess_bgh: Tensor | None,
    ) -> Tensor:
        e_gkd = _centered_embedding(p)
        scaled_bsgh = weights_bsgh * self._scale(preprocessed, e_gkd)[..., None]
        of_tokens = super()._mix(p, scaled_bsgh, preprocessed, maps_ghed, excess_bgh)
        sums_bkgh = scaled_bsgh.new_zeros(
            len(scaled_bsgh), e_gkd.shape[1], *scaled_bsgh.shape[2:]
        ).index_add(1, self.embedding_ids.to(scaled_bsgh.device), scaled_bsgh)
        e_gkd = e_gkd * p["norm_value.weight"][:, None]
        mapped_ghke = e_gkd[:, None] @ maps_ghed.transpose(2, 3)
        of_embeddings = sums_bkgh.permute(2, 3, 0, 1) @ mapped_ghke
        return of_tokens + of_embeddings.to(of_tokens.dtype)

    def _scale(self, preprocessed: Tensor, e_gkd: Tensor) -> Tensor:
        """Return the factors r_s, (B, S, G)."""
        products_bsgk = multiply_tokens(preprocessed, e_gkd)
        index = self.embedding_ids.to(products_bsgk.device)[None, :, None, None]
        token_product_bsg = products_bsgk.gather(3, index.expand(*products_bsgk.shape[:3], 1))[
            ..., 0
        ]
        squares_bsg = (
            preprocessed.to(e_gkd.dtype).square().sum(-1)[..., None]
            + 2 * token_product_bsg
            + e_gkd.square().sum(-1)[:, self.embedding_ids].t()
        )
        return (squares_bsg / e_gkd.shape[2] + LAYER_NORM_EPS).rsqrt()


def _centered_embedding(p: Mapping[str, Tensor]) -> Tensor:
    return p["embedding"] - p["embedding"].mean(-1, keepdim=True)
