"""Trained heads as modules for inference, made of operations that every exporter supports.

Everything that is constant after training is folded into a few matrices. The heads of
`layercache.probing.heads`, in contrast, are made for training many configurations at once.

Shapes: B images, S tokens, D width, C classes, H attention heads of width d, K embeddings.

The attentive head is W_C BN(W_O [h: W_V,h sum_s a_hs LN_v(x_s)] + b_O) + b_C with
a_hs = softmax_s(q_h . W_K,h LN_k(x_s) / sqrt(d)). With z = (x - mean) / std,
LN_k(x) = gamma_k z + beta_k, and sum_s a_hs = 1:

    q_h . W_K,h LN_k(x_s) / sqrt(d) = m_h . z_s + (the same for every s)
                                m_h = gamma_k * W_K,h^T q_h / sqrt(d)
    W_V,h sum_s a_hs LN_v(x_s)      = (W_V,h gamma_v) sum_s a_hs z_s + W_V,h beta_v

In evaluation mode BN is y -> y * scale + shift, so W_C, BN and W_O are one (C, H d) matrix with one
bias.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layercache.probing.heads import HeadSpec
from layercache.probing.heads.attentive import BATCH_NORM_EPS, LAYER_NORM_EPS


def inference_head(spec: HeadSpec, parameters: Mapping[str, Tensor]) -> nn.Module:
    """Return a frozen module from unit-length tokens (B, S, D) to logits (B, C).

    Args:
        spec: Kind and shape of the head.
        parameters: State dict of the reference head.
    """
    kind = LinearInference if spec.kind == "linear" else AttentiveInference
    return kind(spec, parameters).eval().requires_grad_(False)


class LinearInference(nn.Module):
    """Linear head: one affine map of the concatenated tokens."""

    def __init__(self, spec: HeadSpec, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.weight = _frozen(parameters["classifier.weight"])
        self.bias = _frozen(parameters["classifier.bias"])

    def forward(self, x_bsd: Tensor) -> Tensor:
        """Map tokens (B, S, D) to logits (B, C)."""
        return F.linear(x_bsd.flatten(1), self.weight, self.bias)


class AttentiveInference(nn.Module):
    """Attentive head, folded in float64."""

    def __init__(self, spec: HeadSpec, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        p = {name: value.double() for name, value in parameters.items()}
        num_heads, head_width, width = spec.num_heads, spec.head_width, spec.width
        query = F.layer_norm(
            p["query"], (width,), p["norm_query.weight"], p["norm_query.bias"], eps=LAYER_NORM_EPS
        )
        query_hd = (p["to_query.weight"] @ query).view(num_heads, head_width)
        keys_hde = p["to_key.weight"].view(num_heads, head_width, width)
        values_hde = p["to_value.weight"].view(num_heads, head_width, width)
        scale = p["batch_norm.weight"] / (p["batch_norm.running_var"] + BATCH_NORM_EPS).sqrt()
        classifier = p["classifier.weight"] * scale
        constant = (
            p["output.weight"] @ (p["to_value.weight"] @ p["norm_value.bias"])
            + p["output.bias"]
            - p["batch_norm.running_mean"]
        )
        self.directions = _frozen(
            p["norm_key.weight"] * torch.einsum("hd,hde->he", query_hd, keys_hde) * head_width**-0.5
        )
        """m_h of the module docstring, (H, D)."""
        self.values = _frozen((values_hde * p["norm_value.weight"]).transpose(1, 2))
        """W_V,h gamma_v transposed, (H, D, d)."""
        self.weight = _frozen(classifier @ p["output.weight"])
        """Classifier, BatchNorm and output projection in one, (C, H d)."""
        self.bias = _frozen(
            classifier @ constant
            + p["classifier.weight"] @ p["batch_norm.bias"]
            + p["classifier.bias"]
        )
        """Bias of the same map, (C,)."""
        self.embedding: nn.Parameter | None = None
        """Embedding added to each token, (S, D); None for a head without embeddings."""
        if spec.embedding_ids is not None:
            self.embedding = _frozen(p["embedding"][list(spec.embedding_ids)])

    def forward(self, x_bsd: Tensor) -> Tensor:
        """Map tokens (B, S, D) to logits (B, C)."""
        if self.embedding is not None:
            x_bsd = x_bsd + self.embedding
        z_bsd = F.layer_norm(x_bsd, x_bsd.shape[-1:], eps=LAYER_NORM_EPS)
        weights_bhs = F.linear(z_bsd, self.directions).softmax(1).transpose(1, 2)
        attended_bhd = weights_bhs @ z_bsd
        values_hbd = attended_bhd.transpose(0, 1) @ self.values
        return F.linear(values_hbd.transpose(0, 1).flatten(1), self.weight, self.bias)


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.float().clone().contiguous(), requires_grad=False)
