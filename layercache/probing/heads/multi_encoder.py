"""The attentive head over the tokens of several encoders, each with a learned linear map.

Shapes: G configurations, B rows of a batch, S tokens of all encoders, S_e of encoder e, D_e its
width, D the widest, W the shared width, H attention heads of length d.

A token x of encoder e becomes y = M_e LN_e(x), where LN_e normalizes at the encoder's own width and
M_e (W, D_e) is its map; y takes the place of LN(x) in the attentive head (attentive.py). Keys and
values have LayerNorms of their own and share the map. The maps are linear, so they are never
applied to a token. With z = (x - mean) / std:

    q_h . k_hs = (gamma_k,e * M_e^T W_K,h^T q_h) . z_s + (W_K,h^T q_h) . M_e beta_k,e
    o_h        = sum_e (W_V,h M_e) (gamma_v,e * sum_{s in e} a_hs z_s + beta_v,e sum_{s in e} a_hs)

The second term of the score differs between encoders: it is how much a head prefers one of them.
M_e starts as the identity, padded with zeros, so that the head starts as one on padded tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from layercache.probing.heads.attention_ops import (
    multiply_tokens,
    softmax_over_tokens,
    standardize,
)
from layercache.probing.heads.attentive import BatchedAttentiveHead
from layercache.probing.heads.mixing import mix_and_map
from layercache.probing.heads.outer_product import OuterProducts
from layercache.probing.heads.spec import HeadSpec

NORMS = ("norm_key", "norm_value")


class BatchedMultiEncoderHead(BatchedAttentiveHead):
    """G attentive heads over several encoders.

    Parameters are those of the attentive head, with "norm_key.E.weight", "map.E.weight" and the
    like of each encoder E from 0 on.
    """

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        assert spec.encoder_tokens is not None
        assert spec.encoder_widths is not None
        self.encoders: list[tuple[slice, int]] = []
        """Positions along S and the width of each encoder."""
        first = 0
        for tokens, width in zip(spec.encoder_tokens, spec.encoder_widths, strict=True):
            self.encoders.append((slice(first, first + tokens), width))
            first += tokens

    def init_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return those of the attentive head, with LayerNorms and a map of each encoder."""
        p = super().init_parameters(generator)
        for name in NORMS:
            del p[f"{name}.weight"], p[f"{name}.bias"]
        for i, (_, width) in enumerate(self.encoders):
            for name in NORMS:
                p[f"{name}.{i}.weight"] = torch.ones(width)
                p[f"{name}.{i}.bias"] = torch.zeros(width)
            p[f"map.{i}.weight"] = initial_map(self.spec.width, width, generator=generator)
        return p

    def preprocess(self, x_bsd: Tensor) -> Tensor:
        """Return the tokens standardized over the elements of their encoder, (B, S, D).

        Elements beyond its width, which hold noise, become 0.
        """
        z_bsd = torch.zeros_like(x_bsd)
        for tokens, width in self.encoders:
            z_bsd[:, tokens, :width] = standardize(x_bsd[:, tokens, :width])
        return z_bsd

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
        p = parameters
        unscaled = {**p, "norm_key.weight": torch.ones_like(p["query"])}
        directions_ghw = self._directions(unscaled, outer)
        scores = []
        for i, (tokens, width) in enumerate(self.encoders):
            mapped_ghd = directions_ghw @ p[f"map.{i}.weight"]
            keys_ghd = mapped_ghd * p[f"norm_key.{i}.weight"][:, None]
            of_tokens = multiply_tokens(preprocessed[:, tokens, :width], keys_ghd)
            preference_gh = (mapped_ghd @ p[f"norm_key.{i}.bias"][:, :, None])[..., 0]
            scores.append(of_tokens + preference_gh)
        return softmax_over_tokens(torch.cat(scores, 1), kept_bs)

    def _mix(
        self,
        p: Mapping[str, Tensor],
        weights_bsgh: Tensor,
        preprocessed: Tensor,
        maps_ghed: Tensor,
        excess_bgh: Tensor | None,
    ) -> Tensor:
        """Return the maps of the mixed tokens of all encoders, (G, H, B, E).

        `excess_bgh` has no use: the weights of one encoder do not sum to 1 in any case.
        """
        dtype = preprocessed.dtype
        n_configs, n_heads, height, _ = maps_ghed.shape
        total: Tensor | None = None
        for i, (tokens, width) in enumerate(self.encoders):
            weights = weights_bsgh[:, tokens]
            maps_gkd = maps_ghed.flatten(1, 2) @ p[f"map.{i}.weight"]
            mapped_kbe = mix_and_map(
                weights.flatten(2).to(dtype),
                preprocessed[:, tokens, :width].contiguous(),
                maps_gkd.view(-1, height, width).to(dtype),
                scale_gd=p[f"norm_value.{i}.weight"].to(dtype),
                shift_gd=p[f"norm_value.{i}.bias"].to(dtype),
                excess_bk=weights.sum(1).flatten(1).to(dtype),
            )
            total = mapped_kbe if total is None else total + mapped_kbe
        assert total is not None
        return total.view(n_configs, n_heads, -1, height)

    def _constant(self, p: Mapping[str, Tensor]) -> Tensor:
        """Return b_O, (G, W); the shifts of the values are mixed with the tokens."""
        return p["output.bias"].detach()


def initial_map(out_width: int, in_width: int, *, generator: torch.Generator) -> Tensor:
    """Return the map (out, in) that an encoder starts with.

    The identity and zeros, which pads a token; to a smaller width, random numbers that keep its
    variance.
    """
    if out_width >= in_width:
        return torch.eye(out_width, in_width)
    bound = (3 / in_width) ** 0.5
    return torch.empty(out_width, in_width).uniform_(-bound, bound, generator=generator)
