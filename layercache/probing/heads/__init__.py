"""The heads: G independent copies of one head evaluated together."""

from __future__ import annotations

import typing
from collections.abc import Mapping

import torch
from torch import Tensor

from layercache.probing.heads.attentive import BatchedAttentiveHead
from layercache.probing.heads.efficient import BatchedEfficientHead
from layercache.probing.heads.fusion import BatchedFusionHead
from layercache.probing.heads.fusion_branch import BatchedFusionBranch
from layercache.probing.heads.hybrid import BatchedHybridHead
from layercache.probing.heads.linear import BatchedLinearHead
from layercache.probing.heads.multi_encoder import BatchedMultiEncoderHead
from layercache.probing.heads.outer_product import OuterProducts
from layercache.probing.heads.scalar_mix import BatchedScalarMixHead
from layercache.probing.heads.spec import KINDS, HeadSpec

__all__ = ["KINDS", "AttendingHead", "Head", "HeadSpec", "build", "parameter_shapes"]


class Head(typing.Protocol):
    """G copies of one head, as functions of a dict name -> (G, ...) of parameters."""

    spec: HeadSpec
    buffers: tuple[str, ...]
    """Names among the parameters that are running statistics: they have no gradient, and
    `logits(train=True)` updates them in place."""

    def init_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the initial parameters of one configuration, float32 on the CPU."""

    def preprocess(self, x_bsd: Tensor) -> Tensor:
        """Return the part of the forward pass that all configurations share.

        Args:
            x_bsd: (B, S, D), L2-normalized tokens.
        """

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
        """Return logits (G, B, C)."""


class AttendingHead(Head, typing.Protocol):
    """A head that weights its tokens."""

    def attention(
        self,
        parameters: Mapping[str, Tensor],
        preprocessed: Tensor,
        outer: OuterProducts | None = None,
        kept_bs: Tensor | None = None,
    ) -> Tensor:
        """Return the weights (B, S, G, rows) before dropout; they sum to 1 over S."""


def build(spec: HeadSpec) -> Head:
    """Return the head of a spec."""
    if spec.kind == "linear":
        return BatchedLinearHead(spec)
    if spec.kind == "scalar-mix":
        return BatchedScalarMixHead(spec)
    if spec.kind == "efficient":
        return BatchedEfficientHead(spec)
    if spec.kind == "fusion":
        return BatchedFusionBranch(spec, spec.branch) if spec.branch else BatchedFusionHead(spec)
    if spec.encoder_tokens is not None:
        return BatchedMultiEncoderHead(spec)
    return BatchedAttentiveHead(spec) if spec.embedding_ids is None else BatchedHybridHead(spec)


def parameter_shapes(spec: HeadSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter and buffer of one head; takes no memory for them."""
    head = build(spec)
    with torch.device("meta"):
        parameters = head.init_parameters(torch.Generator())
    return {name: tuple(p.shape) for name, p in parameters.items()}
