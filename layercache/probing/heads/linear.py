"""The linear head: the chosen tokens side by side, one affine map to the classes.

Shapes: G configurations, B rows, S tokens, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from layercache.probing.heads.init import affine_map
from layercache.probing.heads.spec import HeadSpec


class LinearHead:
    """G linear heads; parameters are dicts name -> (G, ...), with the names of the plain module's state dict."""

    buffers: tuple[str, ...] = ()

    def __init__(self, spec: HeadSpec) -> None:
        self.spec = spec

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Parameters of one configuration, drawn as torch.nn.Linear draws them."""
        weight, bias = affine_map(
            self.spec.classes, self.spec.tokens * self.spec.width, generator=generator
        )
        return {"classifier.weight": weight, "classifier.bias": bias}

    def prepare(self, x_bsd: Tensor) -> Tensor:
        """What all configurations share of a batch: the tokens side by side, (B, S*D)."""
        return x_bsd.flatten(1)

    def logits(
        self,
        parameters: Mapping[str, Tensor],
        prepared: Tensor,
        *,
        train: bool,
        rates: Tensor | None = None,
        draw: Tensor | None = None,
    ) -> Tensor:
        """Logits (G, B, C), by one matrix product for all configurations; `rates` and `draw` belong to attention and are not used."""
        weight, bias = parameters["classifier.weight"], parameters["classifier.bias"]
        flat = torch.mm(prepared, weight.flatten(0, 1).to(prepared.dtype).t())
        return flat.view(-1, *bias.shape).transpose(0, 1).to(bias.dtype) + bias[:, None]
