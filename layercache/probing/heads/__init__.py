"""The heads: G independent copies evaluated together."""

from __future__ import annotations

import typing
from collections.abc import Mapping

import torch
from torch import Tensor

from layercache.probing.heads.attentive import AttentiveHead
from layercache.probing.heads.hybrid import EmbeddingHead
from layercache.probing.heads.linear import LinearHead
from layercache.probing.heads.spec import KINDS, HeadSpec

__all__ = ["KINDS", "Head", "HeadSpec", "build"]


class Head(typing.Protocol):
    """G copies of one head, as functions of a dict name -> (G, ...) of parameters."""

    spec: HeadSpec
    buffers: tuple[str, ...]
    """Names among the parameters that are running statistics: no gradient, moved in place by `logits(train=True)`."""

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Parameters of one configuration."""

    def prepare(self, x_bsd: Tensor) -> Tensor:
        """What all configurations share of a batch of normalised tokens."""

    def logits(
        self,
        parameters: Mapping[str, Tensor],
        prepared: Tensor,
        *,
        train: bool,
        rates: Tensor | None = None,
        draw: Tensor | None = None,
    ) -> Tensor:
        """Logits (G, B, C)."""


def build(spec: HeadSpec) -> Head:
    """The head of a spec."""
    if spec.kind == "linear":
        return LinearHead(spec)
    return AttentiveHead(spec) if spec.groups is None else EmbeddingHead(spec)
