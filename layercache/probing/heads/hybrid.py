"""The attentive head over mixed tokens, each with a learned embedding of its layer and kind added to it: the hybrid head's option.

Shapes: as in attentive, and K groups of tokens that share an embedding; k(s) is token s's.

The tokens x_s + e_k(s) now differ by configuration, but need not be formed. With c and e centred over their elements, the standardised token is

    z_s = r_s (c_s + e_k(s)),    r_s = 1 / sqrt((|c_s|^2 + 2 c_s . e_k(s) + |e_k(s)|^2) / D + eps)

so a score is r_s (m . c_s + m . e_k(s)), and a weighted sum is sum_s (a_s r_s) c_s + sum_k (sum_{s in k} a_s r_s) e_k: the shared c takes the
place of the shared z, and what is new has the size of the scores.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from layercache.probing.heads.attentive import LAYER_NORM_EPS, AttentiveHead
from layercache.probing.heads.spec import HeadSpec

EMBEDDING_STD = 0.02


class EmbeddingHead(AttentiveHead):
    """An attentive head with the further parameter "embedding" (G, K, D)."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.group = torch.tensor(spec.groups)

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """As the attentive head's, and embeddings from N(0, 0.02)."""
        count = int(self.group.max()) + 1
        return super().initial(generator) | {
            "embedding": torch.empty(count, self.spec.width).normal_(
                0, EMBEDDING_STD, generator=generator
            )
        }

    def prepare(self, x_bsd: Tensor) -> Tensor:
        """What all configurations share of a batch: the tokens centred over their elements, (B, S, D)."""
        return x_bsd - x_bsd.mean(-1, keepdim=True)

    def attention(self, parameters: Mapping[str, Tensor], prepared: Tensor) -> Tensor:
        """Attention weights (B, S, G, H) before dropout; they sum to 1 over S."""
        directions, e_gkd = self._directions(parameters), _centred(parameters)
        of_tokens = torch.mm(
            prepared.flatten(0, 1), directions.flatten(0, 1).to(prepared.dtype).t()
        ).to(directions.dtype)
        of_groups = torch.bmm(e_gkd, directions.transpose(1, 2))[:, self.group].transpose(
            0, 1
        )  # (S, G, H)
        scores = of_tokens.view(*prepared.shape[:2], -1, self.spec.heads) + of_groups
        return (scores * self._scale(prepared, e_gkd)[..., None]).softmax(1)

    def _mix(
        self, p: Mapping[str, Tensor], weights_bsgh: Tensor, prepared: Tensor, maps_ghed: Tensor
    ) -> Tensor:
        e_gkd = _centred(p)
        scaled = weights_bsgh * self._scale(prepared, e_gkd)[..., None]
        of_tokens = super()._mix(p, scaled, prepared, maps_ghed)
        sums = scaled.new_zeros(len(scaled), e_gkd.shape[1], *scaled.shape[2:]).index_add(
            1, self.group.to(scaled.device), scaled
        )  # (B, K, G, H)
        of_groups = sums.permute(2, 3, 0, 1) @ (e_gkd[:, None] @ maps_ghed.transpose(2, 3))
        return of_tokens + of_groups.to(of_tokens.dtype)

    def _scale(self, prepared: Tensor, e_gkd: Tensor) -> Tensor:
        """The factor r_s, (B, S, G)."""
        groups, width = e_gkd.shape[1], e_gkd.shape[2]
        products = torch.mm(prepared.flatten(0, 1), e_gkd.flatten(0, 1).to(prepared.dtype).t()).to(
            e_gkd.dtype
        )
        products = products.view(*prepared.shape[:2], -1, groups)  # (B, S, G, K)
        own = products.gather(
            3, self.group.to(products.device)[None, :, None, None].expand(*products.shape[:3], 1)
        )[..., 0]
        squares = (
            prepared.to(e_gkd.dtype).square().sum(-1)[..., None]
            + 2 * own
            + e_gkd.square().sum(-1)[:, self.group].t()
        )
        return (squares / width + LAYER_NORM_EPS).rsqrt()


def _centred(p: Mapping[str, Tensor]) -> Tensor:
    return p["embedding"] - p["embedding"].mean(-1, keepdim=True)
