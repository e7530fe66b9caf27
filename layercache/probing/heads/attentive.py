"""The attentive head (arXiv 2601.09322, "Attentive Multi-Layer Fusion"), fused: keys and values are never formed per token.

Shapes: G configurations, B rows, S tokens, D width, H attention heads of length d, C classes.

The textbook head is q = W_Q LN_q(u), k_s = W_K LN_k(x_s), v_s = W_V LN_v(x_s), a_hs = softmax_s(q_h . k_hs / sqrt(d)), o_h = sum_s a_hs v_hs. Three
steps take the maps out of the sum over tokens. With z = (x - mean) / std, shared by both LayerNorms, LN(x) = gamma * z + beta, so

    q_h . k_hs = (gamma_k * W_K,h^T q_h) . z_s + q_h . W_K,h beta_k        the last term is the same for every s: softmax does not see it
    o_h        = (W_V,h diag(gamma_v)) sum_s a_hs z_s + (W_V,h beta_v) sum_s a_hs

where sum_s a_hs is 1 without dropout; with it, what is above or below 1 is carried along. Same function, same parameters, same gradients; those that
are zero because softmax or BatchNorm subtracts the parameter again (beta_k and b_O, and beta_v without dropout) are exactly zero here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from layercache.probing.heads.init import affine_map, linear_map
from layercache.probing.heads.mixing import mix_and_map
from layercache.probing.heads.spec import HeadSpec

LAYER_NORM_EPS = 1e-5
BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1
QUERY_STD = 0.02


class AttentiveHead:
    """G attentive heads; parameters are dicts name -> (G, ...), with the names of the textbook module's state dict."""

    buffers: tuple[str, ...] = ("batch_norm.running_mean", "batch_norm.running_var")

    def __init__(self, spec: HeadSpec) -> None:
        self.spec = spec

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Parameters and running statistics of one configuration: the query from N(0, 0.02), maps as torch.nn.Linear draws them."""
        width, inner = self.spec.width, self.spec.heads * self.spec.head_width
        p = {"query": torch.empty(width).normal_(0, QUERY_STD, generator=generator)}
        for name in ("norm_query", "norm_key", "norm_value"):
            p[f"{name}.weight"], p[f"{name}.bias"] = torch.ones(width), torch.zeros(width)
        for name in ("to_query", "to_key", "to_value"):
            p[f"{name}.weight"] = linear_map(inner, width, generator=generator)
        p["output.weight"], p["output.bias"] = affine_map(width, inner, generator=generator)
        p["batch_norm.weight"], p["batch_norm.bias"] = torch.ones(width), torch.zeros(width)
        p["classifier.weight"], p["classifier.bias"] = affine_map(
            self.spec.classes, width, generator=generator
        )
        p["batch_norm.running_mean"], p["batch_norm.running_var"] = (
            torch.zeros(width),
            torch.ones(width),
        )
        return p

    def prepare(self, x_bsd: Tensor) -> Tensor:
        """What all configurations share of a batch: the tokens standardised over their elements, (B, S, D)."""
        return F.layer_norm(x_bsd, x_bsd.shape[-1:], eps=LAYER_NORM_EPS)

    def logits(
        self,
        parameters: Mapping[str, Tensor],
        prepared: Tensor,
        *,
        train: bool,
        rates: Tensor | None = None,
        draw: Tensor | None = None,
    ) -> Tensor:
        """Logits (G, B, C).

        With `train`, BatchNorm uses the batch and moves its running statistics, and a weight is dropped where `draw` (uniform (B, S, H), shared by
        all configurations) lies below the configuration's entry of `rates` (G,), or (1,) where all have the same. The products over tokens run in
        `prepared`'s dtype.
        """
        p = parameters
        weights_bsgh = self.attention(p, prepared)
        excess_bgh = None
        if train and rates is not None and draw is not None:
            weights_bsgh = weights_bsgh * (
                (draw[:, :, None] >= rates[:, None]) / (1 - rates[:, None])
            )
            excess_bgh = (weights_bsgh.sum(1) - 1) * (rates[:, None] > 0)
        fused = self._fuse(p, weights_bsgh, prepared, excess_bgh)
        normalised = self._normalise_batch(p, fused, train=train)
        return torch.baddbmm(
            p["classifier.bias"][:, None], normalised, p["classifier.weight"].transpose(1, 2)
        )

    def attention(self, parameters: Mapping[str, Tensor], prepared: Tensor) -> Tensor:
        """Attention weights (B, S, G, H) before dropout; they sum to 1 over S."""
        directions = self._directions(parameters)
        scores = torch.mm(prepared.flatten(0, 1), directions.flatten(0, 1).to(prepared.dtype).t())
        return scores.to(directions.dtype).view(*prepared.shape[:2], -1, self.spec.heads).softmax(1)

    def _directions(self, p: Mapping[str, Tensor]) -> Tensor:
        """What a standardised token is multiplied with to give its score: gamma_k * W_K,h^T q_h / sqrt(d), (G, H, D)."""
        heads, length = self.spec.heads, self.spec.head_width
        query = (
            F.layer_norm(p["query"], p["query"].shape[-1:], eps=LAYER_NORM_EPS)
            * p["norm_query.weight"]
            + p["norm_query.bias"]
        )
        query = (
            torch.bmm(p["to_query.weight"], query[:, :, None]).view(-1, heads, 1, length)
            * length**-0.5
        )
        keys = p["to_key.weight"].view(-1, heads, length, self.spec.width)
        directions: Tensor = (query @ keys).squeeze(2) * p["norm_key.weight"][:, None]
        return directions

    def _fuse(
        self,
        p: Mapping[str, Tensor],
        weights_bsgh: Tensor,
        prepared: Tensor,
        excess_bgh: Tensor | None,
    ) -> Tensor:
        """Value and output maps of the mixed tokens, (G, B, D), without what is the same for every row (see `_constant`).

        `excess_bgh` is sum_s a_hs - 1 after dropout. The maps W_O,h and W_V,h of a head are applied one after the other, 2 B d D products, or are
        multiplied first, B D D + d D D: with d = 2 D / H and B well above D that is the less up to three heads.
        """
        heads, length, width = self.spec.heads, self.spec.head_width, self.spec.width
        n_rows, _, n_configurations, _ = weights_bsgh.shape
        dtype, low = weights_bsgh.dtype, prepared.dtype
        values = (
            p["to_value.weight"].view(n_configurations, heads, length, width)
            * p["norm_value.weight"][:, None, None]
        )
        outputs = (
            p["output.weight"].view(n_configurations, width, heads, length).transpose(1, 2)
        )  # (G, H, D, d)
        multiplied = width * (n_rows + length) < 2 * length * n_rows
        maps = outputs @ values if multiplied else values
        inner = self._mix(p, weights_bsgh, prepared, maps)
        if multiplied:
            fused = inner.sum(1, dtype=dtype)
        else:
            joined = inner.transpose(1, 2).flatten(2)  # (G, B, H*d)
            fused = torch.bmm(joined, p["output.weight"].transpose(1, 2).to(low)).to(dtype)
        if excess_bgh is not None:
            shift = torch.bmm(p["to_value.weight"], p["norm_value.bias"][:, :, None]).view(
                n_configurations, heads, length, 1
            )
            fused = torch.baddbmm(fused, excess_bgh.transpose(0, 1), (outputs @ shift)[..., 0])
        return fused

    def _mix(
        self, p: Mapping[str, Tensor], weights_bsgh: Tensor, prepared: Tensor, maps_ghed: Tensor
    ) -> Tensor:
        """Every attention head's map of its weighted sum of standardised tokens, (G, H, B, E), in `prepared`'s dtype."""
        low = prepared.dtype
        mapped = mix_and_map(
            weights_bsgh.flatten(2).to(low), prepared, maps_ghed.flatten(0, 1).to(low)
        )
        return mapped.view(*maps_ghed.shape[:2], *mapped.shape[1:])

    @torch.no_grad()
    def _constant(self, p: Mapping[str, Tensor]) -> Tensor:
        """The part W_O W_V beta_v + b_O of BatchNorm's input, (G, D).

        In training BatchNorm takes it away again, so it has no gradient: it only moves the running mean. Added to the rows it would get one of pure
        rounding, which Adam blows up to full steps.
        """
        shift = torch.bmm(p["to_value.weight"], p["norm_value.bias"][:, :, None])
        return torch.bmm(p["output.weight"], shift)[..., 0] + p["output.bias"]

    def _normalise_batch(
        self, p: Mapping[str, Tensor], fused_gbd: Tensor, *, train: bool
    ) -> Tensor:
        """BatchNorm of every configuration by itself, (G, B, D); moves the running statistics with `train`."""
        n_configurations, n_rows, width = fused_gbd.shape
        constant, mean = self._constant(p), p["batch_norm.running_mean"]
        if train:  # ahead of batch_norm, which keeps the running mean for the backward pass: (1 - m)(mean + c m / (1 - m)) + m batch's
            mean.add_(constant, alpha=BATCH_NORM_MOMENTUM / (1 - BATCH_NORM_MOMENTUM))
        normalised = F.batch_norm(
            fused_gbd.transpose(0, 1).reshape(n_rows, -1),
            mean.view(-1) if train else (mean - constant).view(-1),
            p["batch_norm.running_var"].view(-1),
            p["batch_norm.weight"].flatten(),
            p["batch_norm.bias"].flatten(),
            training=train,
            momentum=BATCH_NORM_MOMENTUM,
            eps=BATCH_NORM_EPS,
        )
        return normalised.view(n_rows, n_configurations, width).transpose(0, 1)
