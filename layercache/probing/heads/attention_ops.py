"""Operations that the heads with attention share, for G configurations at once.

Shapes: G configurations, B rows of a batch, S tokens, D width, H attention heads, K vectors of a
configuration, F features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from layercache.probing.heads.outer_product import OuterProducts

LAYER_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1
QUERY_STD = 0.02


class FeatureHead(ABC):
    """G heads whose logits are a map of features."""

    @abstractmethod
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
        """Return the normalized features that the classifier maps, (G, B, D)."""

    @abstractmethod
    def classify(self, parameters: Mapping[str, Tensor], features_gbd: Tensor) -> Tensor:
        """Return the logits (G, B, C) of features."""

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
        """Return logits (G, B, C); for the arguments see `features`."""
        features_gbd = self.features(
            parameters,
            preprocessed,
            train=train,
            dropout=dropout,
            uniform_bsh=uniform_bsh,
            outer=outer,
            kept_bs=kept_bs,
        )
        return self.classify(parameters, features_gbd)


def standardize(x_bsd: Tensor) -> Tensor:
    """Return the tokens standardized over their elements, (B, S, D): LayerNorm without weights."""
    return F.layer_norm(x_bsd, x_bsd.shape[-1:], eps=LAYER_NORM_EPS)


def multiply_tokens(x_bsd: Tensor, vectors_gkd: Tensor) -> Tensor:
    """Return the products of tokens with the vectors of every configuration, (B, S, G, K).

    They are computed in the dtype of the tokens and returned in that of the vectors.
    """
    flat = torch.mm(x_bsd.flatten(0, 1), vectors_gkd.flatten(0, 1).to(x_bsd.dtype).t())
    return flat.to(vectors_gkd.dtype).view(*x_bsd.shape[:2], *vectors_gkd.shape[:2])


def softmax_over_tokens(scores_bsgh: Tensor, kept_bs: Tensor | None) -> Tensor:
    """Return the softmax over S of scores (B, S, G, H), over the kept tokens if they are given."""
    if kept_bs is not None:
        scores_bsgh = scores_bsgh.masked_fill(~kept_bs[:, :, None, None], float("-inf"))
    return scores_bsgh.softmax(1)


def drop_weights(weights_bsgh: Tensor, uniform_bsh: Tensor, dropout: Tensor) -> Tensor:
    """Return attention weights (B, S, G, H) after dropout; the kept ones are scaled up.

    Args:
        weights_bsgh: Attention weights.
        uniform_bsh: Uniform draws; a weight is dropped where they lie below the rate.
        dropout: Rate of each configuration, (G,) or (1,).
    """
    kept = uniform_bsh[:, :, None] >= dropout[:, None]
    return weights_bsgh * (kept / (1 - dropout[:, None]))


def batch_norm(
    x_gbf: Tensor,
    running_mean_gf: Tensor,
    running_var_gf: Tensor,
    *,
    train: bool,
    eps: float,
    weight_gf: Tensor | None = None,
    bias_gf: Tensor | None = None,
) -> Tensor:
    """Return BatchNorm of each configuration, (G, B, F).

    Args:
        x_gbf: Features.
        running_mean_gf: Running means, updated in place in training.
        running_var_gf: Running variances, likewise.
        train: Use the batch's statistics.
        eps: Added to the variance.
        weight_gf: Learned factors; None for 1.
        bias_gf: Learned shifts; None for 0.
    """
    n_configs, n_rows, width = x_gbf.shape
    normalized = F.batch_norm(
        x_gbf.transpose(0, 1).reshape(n_rows, -1),
        running_mean_gf.view(-1),
        running_var_gf.view(-1),
        None if weight_gf is None else weight_gf.flatten(),
        None if bias_gf is None else bias_gf.flatten(),
        training=train,
        momentum=BATCH_NORM_MOMENTUM,
        eps=eps,
    )
    return normalized.view(n_rows, n_configs, width).transpose(0, 1)
