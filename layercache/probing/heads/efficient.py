"""Efficient probing (Psomas et al. 2025, arXiv 2506.10178): several queries, no keys.

Each of H learned queries q_h attends to the tokens themselves, and weights a share of its own of
the D values of a token:

    z_s = LN(x_s),  a_hs = softmax_s(q_h . z_s / sqrt(D)),  o_h = sum_s a_hs W_V,h z_s
    logits = W_C BatchNorm([o_1 ... o_H]) + b_C

W_V,h has d = floor(D / H) rows. BatchNorm and the LayerNorm have no parameters. The LayerNorm is
not part of the authors' code, which reads tokens as the encoder's last norm leaves them: here the
protocol of arXiv 2601.09322 has scaled them to length 1, at which no query would tell them apart.
The tokens are mixed before they are mapped, which gives the same values.

Shapes: G configurations, B rows of a batch, S tokens, D width, H queries, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from layercache.probing.heads.attention_ops import (
    QUERY_STD,
    batch_norm,
    drop_weights,
    multiply_tokens,
    softmax_over_tokens,
    standardize,
)
from layercache.probing.heads.batched_linear import batched_linear
from layercache.probing.heads.init import affine_map, linear_map
from layercache.probing.heads.mixing import mix_and_map
from layercache.probing.heads.outer_product import OuterProducts
from layercache.probing.heads.spec import HeadSpec

BATCH_NORM_EPS = 1e-6
"""As in the authors' code."""


class BatchedEfficientHead:
    """G efficient probes; parameters are dicts name -> (G, ...) named as in the readable module."""

    buffers: tuple[str, ...] = ("batch_norm.running_mean", "batch_norm.running_var")

    def __init__(self, spec: HeadSpec) -> None:
        self.spec = spec

    def init_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return initial parameters and running statistics of one configuration.

        The queries are drawn from N(0, 0.02), the maps as torch.nn.Linear draws them.
        """
        num_heads, width = self.spec.num_heads, self.spec.width
        inner_width = num_heads * self.spec.head_width
        queries = torch.empty(num_heads, width).normal_(0, QUERY_STD, generator=generator)
        values = linear_map(inner_width, width, generator=generator)
        weight, bias = affine_map(self.spec.classes, inner_width, generator=generator)
        return {
            "queries": queries,
            "to_value.weight": values,
            "classifier.weight": weight,
            "classifier.bias": bias,
            "batch_norm.running_mean": torch.zeros(inner_width),
            "batch_norm.running_var": torch.ones(inner_width),
        }

    def preprocess(self, x_bsd: Tensor) -> Tensor:
        """Return the tokens standardized over their elements, (B, S, D)."""
        return standardize(x_bsd)

    def logits(
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
        """Return logits (G, B, C).

        Args:
            parameters: See `init_parameters`, each with a leading G.
            preprocessed: (B, S, D), see `preprocess`; the products over tokens have its dtype.
            train: BatchNorm uses the batch and updates its running statistics in place, and
                attention weights are dropped.
            dropout: Rate of each configuration, (G,), or (1,) if all have the same.
            uniform_bsh: Uniform draws that all configurations share; a weight is dropped where
                they lie below the rate.
            outer: Without effect: no gradient is an outer product.
            kept_bs: Tokens to attend to, bool (B, S); None: all.
        """
        p, dtype = parameters, preprocessed.dtype
        weights_bsgh = self.attention(p, preprocessed, kept_bs=kept_bs)
        if train and dropout is not None and uniform_bsh is not None:
            weights_bsgh = drop_weights(weights_bsgh, uniform_bsh, dropout)
        num_heads, head_width, width = self.spec.num_heads, self.spec.head_width, self.spec.width
        values_kbd = mix_and_map(
            weights_bsgh.flatten(2).to(dtype),
            preprocessed,
            p["to_value.weight"].view(-1, head_width, width).to(dtype),
        )
        values_gbf = (
            values_kbd.view(-1, num_heads, *values_kbd.shape[1:]).transpose(1, 2).flatten(2)
        )
        normalized_gbf = batch_norm(
            values_gbf.to(weights_bsgh.dtype),
            p["batch_norm.running_mean"],
            p["batch_norm.running_var"],
            train=train,
            eps=BATCH_NORM_EPS,
        )
        logits = batched_linear(normalized_gbf, p["classifier.weight"])
        return logits + p["classifier.bias"][:, None]

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
        queries_ghd = parameters["queries"] * self.spec.width**-0.5
        return softmax_over_tokens(multiply_tokens(preprocessed, queries_ghd), kept_bs)
