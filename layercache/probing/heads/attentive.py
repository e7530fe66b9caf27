"""The attentive head (arXiv 2601.09322, "Attentive Multi-Layer Fusion"), in a fused form.

Shapes: G configurations, B rows of a batch, S tokens, D width, H attention heads of length d, C
classes.

The textbook head is q = W_Q LN_q(u), k_s = W_K LN_k(x_s), v_s = W_V LN_v(x_s),
a_hs = softmax_s(q_h . k_hs / sqrt(d)), o_h = sum_s a_hs v_hs. Keys and values of single tokens are
never formed here. With z = (x - mean) / std, which both LayerNorms share, LN(x) = gamma * z + beta:

    q_h . k_hs = (gamma_k * W_K,h^T q_h) . z_s + q_h . W_K,h beta_k
    o_h        = (W_V,h diag(gamma_v)) sum_s a_hs z_s + (W_V,h beta_v) sum_s a_hs

The last term of the score is the same for every s, so softmax ignores it. sum_s a_hs is 1 without
dropout; with dropout, its difference from 1 is carried along. Function, parameters and gradients
are those of the textbook head; the gradients that are zero because softmax or BatchNorm subtracts
the parameter again (beta_k and b_O, and beta_v without dropout) are exactly zero here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from layercache.probing.heads.attention_ops import (
    BATCH_NORM_MOMENTUM,
    LAYER_NORM_EPS,
    QUERY_STD,
    FeatureHead,
    batch_norm,
    drop_weights,
    multiply_tokens,
    softmax_over_tokens,
    standardize,
)
from layercache.probing.heads.batched_linear import batched_linear
from layercache.probing.heads.init import affine_map, linear_map
from layercache.probing.heads.mixing import mix_and_map
from layercache.probing.heads.outer_product import OuterProducts, matvec, vecmat
from layercache.probing.heads.spec import HeadSpec

BATCH_NORM_EPS = 1e-5


class BatchedAttentiveHead(FeatureHead):
    """G attentive heads; parameters are dicts name -> (G, ...) named as in the textbook module."""

    buffers: tuple[str, ...] = ("batch_norm.running_mean", "batch_norm.running_var")

    def __init__(self, spec: HeadSpec) -> None:
        self.spec = spec

    def init_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return initial parameters and running statistics of one configuration.

        The query is drawn from N(0, 0.02), the maps as torch.nn.Linear draws them.
        """
        width, inner_width = self.spec.width, self.spec.num_heads * self.spec.head_width
        p = {"query": torch.empty(width).normal_(0, QUERY_STD, generator=generator)}
        for name in ("norm_query", "norm_key", "norm_value"):
            p[f"{name}.weight"] = torch.ones(width)
            p[f"{name}.bias"] = torch.zeros(width)
        for name in ("to_query", "to_key", "to_value"):
            p[f"{name}.weight"] = linear_map(inner_width, width, generator=generator)
        p["output.weight"], p["output.bias"] = affine_map(width, inner_width, generator=generator)
        p["batch_norm.weight"] = torch.ones(width)
        p["batch_norm.bias"] = torch.zeros(width)
        p["classifier.weight"], p["classifier.bias"] = affine_map(
            self.spec.classes, width, generator=generator
        )
        p["batch_norm.running_mean"] = torch.zeros(width)
        p["batch_norm.running_var"] = torch.ones(width)
        return p

    def preprocess(self, x_bsd: Tensor) -> Tensor:
        """Return the tokens standardized over their elements, (B, S, D)."""
        return standardize(x_bsd)

    def classify(self, parameters: Mapping[str, Tensor], features_gbd: Tensor) -> Tensor:
        """Return the logits (G, B, C) of features."""
        logits = batched_linear(features_gbd, parameters["classifier.weight"])
        return logits + parameters["classifier.bias"][:, None]

    def features(
        self,
        parameters: Mapping[str, Tensor],
        preprocessed: Tensor,
        *,
        train: bool,
        dropout: Tensor | None = None,
        uniform_bsh: Tensor | None = None,
        outer: OuterProducts | None = None,
        kept_bs: Tensor | None = None,
    ) -> Tensor:
        """Return the normalized features that the classifier maps, (G, B, D).

        Args:
            parameters: See `init_parameters`, each with a leading G.
            preprocessed: (B, S, D), see `preprocess`; the products over tokens have its dtype.
            train: BatchNorm uses the batch and updates its running statistics in place, and
                attention weights are dropped.
            dropout: Rate of each configuration, (G,), or (1,) if all have the same.
            uniform_bsh: Uniform draws that all configurations share; a weight is dropped where
                they lie below the rate.
            outer: Receives the gradients that are outer products in the backward pass; None: they
                are matrices, as all others.
            kept_bs: Tokens to attend to, bool (B, S); None: all.
        """
        p = parameters
        weights_bsgh = self.attention(p, preprocessed, outer, kept_bs)
        excess_bgh = None
        if train and dropout is not None and uniform_bsh is not None:
            weights_bsgh = drop_weights(weights_bsgh, uniform_bsh, dropout)
            excess_bgh = (weights_bsgh.sum(1) - 1) * (dropout[:, None] > 0)
        fused_gbd = self._fuse(p, weights_bsgh, preprocessed, excess_bgh)
        return self._batch_norm(p, fused_gbd, train=train)

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
        directions_ghd = self._directions(parameters, outer)
        return softmax_over_tokens(multiply_tokens(preprocessed, directions_ghd), kept_bs)

    def _directions(self, p: Mapping[str, Tensor], outer: OuterProducts | None) -> Tensor:
        """Return the vectors whose products with a standardized token are its scores, (G, H, D).

        They are gamma_k * W_K,h^T q_h / sqrt(d).
        """
        num_heads, head_width, width = self.spec.num_heads, self.spec.head_width, self.spec.width
        query_gd = F.layer_norm(p["query"], p["query"].shape[-1:], eps=LAYER_NORM_EPS)
        query_gd = query_gd * p["norm_query.weight"] + p["norm_query.bias"]
        query = matvec(
            p["to_query.weight"][:, None], query_gd[:, None], name="to_query.weight", outer=outer
        )
        query = query.view(-1, num_heads, head_width) * head_width**-0.5
        keys = p["to_key.weight"].view(-1, num_heads, head_width, width)
        directions_ghd = vecmat(query, keys, name="to_key.weight", outer=outer)
        return directions_ghd * p["norm_key.weight"][:, None]

    def _fuse(
        self,
        p: Mapping[str, Tensor],
        weights_bsgh: Tensor,
        preprocessed: Tensor,
        excess_bgh: Tensor | None,
    ) -> Tensor:
        """Return the value and output maps of the mixed tokens, (G, B, D), but for `_constant`.

        `excess_bgh` is sum_s a_hs - 1 after dropout. The maps W_O,h and W_V,h of a head are either
        applied one after the other, 2 B d D products, or multiplied first, B D D + d D D: with
        d = 2 D / H and B well above D, the latter takes fewer products up to three heads.
        """
        num_heads, head_width, width = self.spec.num_heads, self.spec.head_width, self.spec.width
        n_rows, _, n_configs, _ = weights_bsgh.shape
        dtype, compute_dtype = weights_bsgh.dtype, preprocessed.dtype
        values = p["to_value.weight"].view(n_configs, num_heads, head_width, width)
        if width * (n_rows + head_width) < 2 * head_width * n_rows:
            outputs = p["output.weight"].view(n_configs, width, num_heads, head_width)
            maps = outputs.transpose(1, 2) @ values
            return self._mix(p, weights_bsgh, preprocessed, maps, excess_bgh).sum(1, dtype=dtype)
        mapped_ghbe = self._mix(p, weights_bsgh, preprocessed, values, excess_bgh)
        joined = mapped_ghbe.transpose(1, 2).flatten(2)  # (G, B, H*d)
        return batched_linear(joined, p["output.weight"].to(compute_dtype)).to(dtype)

    def _mix(
        self,
        p: Mapping[str, Tensor],
        weights_bsgh: Tensor,
        preprocessed: Tensor,
        maps_ghed: Tensor,
        excess_bgh: Tensor | None,
    ) -> Tensor:
        """Return the maps of LN_v of the mixed tokens, (G, H, B, E), in the compute dtype."""
        compute_dtype = preprocessed.dtype
        mapped = mix_and_map(
            weights_bsgh.flatten(2).to(compute_dtype),
            preprocessed,
            maps_ghed.flatten(0, 1).to(compute_dtype),
            scale_gd=p["norm_value.weight"].to(compute_dtype),
            shift_gd=p["norm_value.bias"].to(compute_dtype),
            excess_bk=None if excess_bgh is None else excess_bgh.flatten(1).to(compute_dtype),
        )
        return mapped.view(*maps_ghed.shape[:2], *mapped.shape[1:])

    @torch.no_grad()
    def _constant(self, p: Mapping[str, Tensor]) -> Tensor:
        """Return W_O W_V beta_v + b_O, (G, D), the part of BatchNorm's input that rows share.

        In training BatchNorm subtracts it again, so it has no gradient and only moves the running
        mean. Added to the rows, it would get a gradient of pure rounding error, which Adam enlarges
        to full steps.
        """
        shift = matvec(p["to_value.weight"][:, None], p["norm_value.bias"][:, None])
        return matvec(p["output.weight"][:, None], shift)[:, 0] + p["output.bias"]

    def _batch_norm(self, p: Mapping[str, Tensor], fused_gbd: Tensor, *, train: bool) -> Tensor:
        """Return BatchNorm of each configuration, (G, B, D); `train` updates the statistics."""
        constant, mean = self._constant(p), p["batch_norm.running_mean"]
        if train:
            # Before batch_norm, which keeps the running mean for the backward pass; the update is
            # (1 - m) (mean + constant m / (1 - m)) + m batch_mean.
            mean.add_(constant, alpha=BATCH_NORM_MOMENTUM / (1 - BATCH_NORM_MOMENTUM))
        return batch_norm(
            fused_gbd,
            mean if train else mean - constant,
            p["batch_norm.running_var"],
            train=train,
            eps=BATCH_NORM_EPS,
            weight_gf=p["batch_norm.weight"],
            bias_gf=p["batch_norm.bias"],
        )
