"""The linear head: the selected tokens concatenated, and one affine map to the classes.

Shapes: G configurations, B rows of a batch, S tokens, D width, H attention heads, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from layercache.probing.heads.init import affine_map
from layercache.probing.heads.outer_product import OuterProducts
from layercache.probing.heads.spec import HeadSpec


class BatchedLinearHead:
    """G linear heads; parameters are dicts name -> (G, ...) named as in a torch.nn module."""

    buffers: tuple[str, ...] = ()

    def __init__(self, spec: HeadSpec) -> None:
        self.spec = spec

    def init_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the initial parameters of one configuration, as torch.nn.Linear draws them."""
        weight, bias = affine_map(
            self.spec.classes, self.spec.tokens * self.spec.width, generator=generator
        )
        return {"classifier.weight": weight, "classifier.bias": bias}

    def preprocess(self, x_bsd: Tensor) -> Tensor:
        """Return the concatenated tokens, (B, S*D)."""
        return x_bsd.flatten(1)

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
        """Return logits (G, B, C), by one matrix product for all configurations.

        Args:
            parameters: Weight (G, C, S*D) and bias (G, C).
            preprocessed: (B, S*D), see `preprocess`; the product has its dtype.
            train: Without effect: training and evaluation are the same.
            dropout: Without effect: there is no attention to drop.
            uniform_bsh: Without effect, likewise.
            outer: Without effect: no gradient is an outer product.
        """
        weight, bias = parameters["classifier.weight"], parameters["classifier.bias"]
        flat = torch.mm(preprocessed, weight.flatten(0, 1).to(preprocessed.dtype).t())
        return flat.view(-1, *bias.shape).transpose(0, 1).to(bias.dtype) + bias[:, None]
