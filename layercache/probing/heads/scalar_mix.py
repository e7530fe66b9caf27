"""The scalar mix: one learned weight for each layer, and a linear classifier on the weighted mean.

The weighting is that of ELMo (Peters et al. 2018, arXiv 1802.05365, equation 1): the tokens x_l of
the layers, softmax-normalized weights s_l and a scale gamma give gamma sum_l s_l x_l. Here each
kind of token (CLS, AP, a cell of a grid) has a mean of its own, and the means are concatenated.

Shapes: G configurations, B rows of a batch, S tokens, K means, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from layercache.probing.heads.batched_linear import batched_linear
from layercache.probing.heads.init import affine_map
from layercache.probing.heads.outer_product import OuterProducts
from layercache.probing.heads.spec import HeadSpec


class BatchedScalarMixHead:
    """G scalar mixes; parameters are dicts name -> (G, ...) named as in the readable module."""

    buffers: tuple[str, ...] = ()

    def __init__(self, spec: HeadSpec) -> None:
        self.spec = spec
        ids = spec.mix_ids or (0,) * spec.tokens
        self._members = [
            torch.tensor([s for s, i in enumerate(ids) if i == k]) for k in range(spec.num_mixes)
        ]
        """Positions along S of the tokens of each mean."""

    def init_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the initial parameters of one configuration.

        They are equal weights, scales of 1, and a classifier as torch.nn.Linear draws it.
        """
        n_mixes = self.spec.num_mixes
        weight, bias = affine_map(self.spec.classes, n_mixes * self.spec.width, generator=generator)
        return {
            "mix": torch.zeros(self.spec.tokens),
            "scale": torch.ones(n_mixes),
            "classifier.weight": weight,
            "classifier.bias": bias,
        }

    def preprocess(self, x_bsd: Tensor) -> Tensor:
        """Return the tokens, (S, B, D), those of one mean next to each other."""
        return x_bsd.transpose(0, 1)[torch.cat(self._members).to(x_bsd.device)]

    def logits(
        self,
        parameters: Mapping[str, Tensor],
        preprocessed: Tensor,
        *,
        train: bool,
        dropout: Tensor | None = None,
        uniform_bsh: Tensor | None = None,
        outer: OuterProducts | None = None,
    ) -> Tensor:
        """Return logits (G, B, C).

        Args:
            parameters: See `init_parameters`, each with a leading G.
            preprocessed: (S, B, D), see `preprocess`; the products have its dtype.
            train: Without effect: training and evaluation are the same.
            dropout: Without effect: there is no attention to drop.
            uniform_bsh: Without effect, likewise.
            outer: Without effect: no gradient is an outer product.
        """
        n_rows, width = preprocessed.shape[1:]
        bias, dtype = parameters["classifier.bias"], preprocessed.dtype
        means, start = [], 0
        for k, members in enumerate(self._members):
            weights_gs = self._weights(parameters, members) * parameters["scale"][:, k, None]
            x_sf = preprocessed[start : start + len(members)].flatten(1)
            means.append(torch.mm(weights_gs.to(dtype), x_sf).view(-1, n_rows, width))
            start += len(members)
        joined_gbf = torch.cat(means, 2) if len(means) > 1 else means[0]
        logits = batched_linear(joined_gbf, parameters["classifier.weight"].to(dtype))
        return logits.to(bias.dtype) + bias[:, None]

    def attention(
        self,
        parameters: Mapping[str, Tensor],
        preprocessed: Tensor,
        outer: OuterProducts | None = None,
        kept_bs: Tensor | None = None,
    ) -> Tensor:
        """Return the weights of the K means as those of attention, (B, S, G, K), summing to 1.

        They are the same for every image, and 0 for the tokens of other means.
        """
        mix_gs = parameters["mix"]
        weights_sgk = mix_gs.new_zeros(self.spec.tokens, len(mix_gs), len(self._members))
        for k, members in enumerate(self._members):
            weights_sgk[members, :, k] = self._weights(parameters, members).t()
        return weights_sgk.expand(preprocessed.shape[1], *weights_sgk.shape)

    def _weights(self, parameters: Mapping[str, Tensor], members: Tensor) -> Tensor:
        """Return the weights of the tokens of one mean, (G, members)."""
        return parameters["mix"][:, members.to(parameters["mix"].device)].softmax(1)
