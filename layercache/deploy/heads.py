"""The trained heads as plain modules for inference: what is constant once training is over is multiplied out, and only common operations are left,
which every exporter knows. The engine's own heads (layercache.probing.heads) are made for training many of them at once.

Shapes: B images, S tokens, D width, C classes, H attention heads of length d, K embeddings.

The attentive head is W_C BN(W_O [h: W_V,h sum_s a_hs LN_v(x_s)] + b_O) + b_C with a_hs = softmax_s(q_h . W_K,h LN_k(x_s) / sqrt(d)). With
z = (x - mean) / std, LN_k(x) = gamma_k z + beta_k, and sum_s a_hs = 1:

    q_h . W_K,h LN_k(x_s) / sqrt(d) = m_h . z_s + (the same for every s), m_h = gamma_k * W_K,h^T q_h / sqrt(d)
    W_V,h sum_s a_hs LN_v(x_s)      = (W_V,h gamma_v) sum_s a_hs z_s + W_V,h beta_v

and BN in evaluation is y -> y * scale + shift, so W_C, BN and W_O are one map of length C x H d with one bias.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layercache.probing.heads import HeadSpec
from layercache.probing.heads.attentive import BATCH_NORM_EPS, LAYER_NORM_EPS


def inference_head(spec: HeadSpec, parameters: Mapping[str, Tensor]) -> nn.Module:
    """A frozen module from tokens (B, S, D), each of length 1, to logits (B, C); `parameters` is the state dict of the textbook head."""
    made = (
        LinearInference(spec, parameters)
        if spec.kind == "linear"
        else AttentiveInference(spec, parameters)
    )
    return made.eval().requires_grad_(False)


class LinearInference(nn.Module):
    """One affine map of the tokens side by side."""

    def __init__(self, spec: HeadSpec, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.weight = _frozen(parameters["classifier.weight"])
        self.bias = _frozen(parameters["classifier.bias"])

    def forward(self, x_bsd: Tensor) -> Tensor:
        """(B, S, D) -> (B, C)."""
        return F.linear(x_bsd.flatten(1), self.weight, self.bias)


class AttentiveInference(nn.Module):
    """The attentive head, folded in float64."""

    def __init__(self, spec: HeadSpec, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        p = {name: value.double() for name, value in parameters.items()}
        heads, length, width = spec.heads, spec.head_width, spec.width
        query = F.layer_norm(
            p["query"], (width,), p["norm_query.weight"], p["norm_query.bias"], eps=LAYER_NORM_EPS
        )
        query_hd = (p["to_query.weight"] @ query).view(heads, length)
        keys_hde = p["to_key.weight"].view(heads, length, width)
        values_hde = p["to_value.weight"].view(heads, length, width)
        scale = p["batch_norm.weight"] / (p["batch_norm.running_var"] + BATCH_NORM_EPS).sqrt()
        classifier = p["classifier.weight"] * scale
        constant = (
            p["output.weight"] @ (p["to_value.weight"] @ p["norm_value.bias"])
            + p["output.bias"]
            - p["batch_norm.running_mean"]
        )
        self.directions = _frozen(
            p["norm_key.weight"] * torch.einsum("hd,hde->he", query_hd, keys_hde) * length**-0.5
        )
        """m, (H, D)."""
        self.values = _frozen((values_hde * p["norm_value.weight"]).transpose(1, 2))
        """(H, D, d)."""
        self.weight = _frozen(classifier @ p["output.weight"])
        """(C, H d)."""
        self.bias = _frozen(
            classifier @ constant
            + p["classifier.weight"] @ p["batch_norm.bias"]
            + p["classifier.bias"]
        )
        """(C,)."""
        self.added = _frozen(p["embedding"][list(spec.groups)]) if spec.groups is not None else None
        """The embedding of each token, (S, D), where there are some."""

    def forward(self, x_bsd: Tensor) -> Tensor:
        """(B, S, D) -> (B, C)."""
        if self.added is not None:
            x_bsd = x_bsd + self.added
        z_bsd = F.layer_norm(x_bsd, x_bsd.shape[-1:], eps=LAYER_NORM_EPS)
        weights_bhs = F.linear(z_bsd, self.directions).softmax(1).transpose(1, 2)
        mixed_bhd = weights_bhs @ z_bsd
        inner_hbd = mixed_bhd.transpose(0, 1) @ self.values
        return F.linear(inner_hbd.transpose(0, 1).flatten(1), self.weight, self.bias)


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.float().clone().contiguous(), requires_grad=False)
