"""The fusion head as a module: attention over layers, attention over spatial tokens, and a gate.

A trained one whose spatial share is 0 or 1 is a single branch, `FusionBranch`.

Shapes: B images, P pooled and Q spatial tokens, T = P + Q, D width of a token, C classes, H
attention heads over pooled tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from layercache.heads.hybrid import HybridHead
from layercache.heads.shape import check_input, check_shape
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.spec import LAYERS

if TYPE_CHECKING:
    from torch._prims_common import DeviceLikeType


class FusionHead(nn.Module):
    """A mean of two attentive heads' logits: one over the layers' pooled tokens, one over patches.

    logits = (1 - g) layers + g spatial, with g = sigmoid(logit(spatial_share) + delta). delta is 0
    for the gate "scalar"; a learned number for each class ("class"); or a learned affine function
    of both branches' features ("sample").

    In training, add a loss of each branch (`branch_logits`): the branches then learn as they would
    alone, and `spatial_share` can be chosen on validation samples afterwards, as
    `layercache.probe` does.
    """

    spatial_share: Tensor
    """Share of the spatial branch, float (1,), a buffer."""

    def __init__(
        self,
        *,
        tokens: int,
        width: int,
        classes: int,
        spatial_tokens: int,
        num_heads: int | None = None,
        gate: Literal["scalar", "class", "sample"] = "scalar",
        embedding_ids: Sequence[int] | None = None,
        dropout: float = 0.0,
        normalize: bool = True,
        device: DeviceLikeType | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draw the branches as AttentiveHead does; the gate starts at one half.

        Args:
            tokens: T, of which the first P are pooled tokens.
            width: D.
            classes: C, the number of outputs.
            spatial_tokens: Q, the last Q of the T tokens.
            num_heads: H; by default P. The spatial branch has 8.
            gate: Kind of the gate.
            embedding_ids: Index of a learned embedding that is added to each of the Q spatial
                tokens, from 0 without gaps; None adds none.
            dropout: Rate at which attention weights are dropped in training.
            normalize: L2-normalize each token first, as `layercache.probe` does.
            device: Device of the parameters.
            dtype: Dtype of the parameters, float32 by default.
        """
        super().__init__()
        spec = check_shape(
            "fusion",
            tokens=tokens,
            width=width,
            classes=classes,
            spatial_tokens=spatial_tokens,
            num_heads=num_heads,
            gate=gate,
            embedding_ids=None if embedding_ids is None else tuple(embedding_ids),
        )
        self.tokens, self.width, self.classes = tokens, width, classes
        self.spatial_tokens, self.normalize = spatial_tokens, normalize
        self.gate_kind = gate
        layers, spatial = spec.branches
        self.layers = _branch_head(layers, dropout=dropout, device=device, dtype=dtype)
        self.spatial = _branch_head(spatial, dropout=dropout, device=device, dtype=dtype)
        self.gate: nn.ParameterDict | nn.Linear | None = None
        if gate == "class":
            bias = nn.Parameter(torch.zeros(classes, device=device, dtype=dtype))
            self.gate = nn.ParameterDict({"bias": bias})
        elif gate == "sample":
            self.gate = nn.Linear(2 * width, 1, device=device, dtype=dtype)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)
        self.register_buffer("spatial_share", torch.full((1,), 0.5, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, D) of any float dtype to logits (B, C).

        In training mode BatchNorm needs at least two images.
        """
        layers, spatial, gate = self._run(x)
        return layers + gate * (spatial - layers)

    def branch_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (B, C) of the branch over layers and of the one over spatial tokens."""
        layers, spatial, _ = self._run(x)
        return layers, spatial

    def gate_weights(self, x: Tensor) -> Tensor:
        """Return g, the share of the spatial branch in each logit, (B, C)."""
        layers, _, gate = self._run(x)
        return gate.expand_as(layers)

    def attention(self, x: Tensor) -> Tensor:
        """Return the attention weights of both branches, (B, H + 8, T), before dropout.

        Those of each attention head sum to 1 over its branch's tokens and are 0 on the others.
        """
        x_pooled, x_spatial = self._split(x)
        layers, spatial = self.layers.attention(x_pooled), self.spatial.attention(x_spatial)
        return torch.cat(
            [
                nn.functional.pad(layers, (0, self.spatial_tokens)),
                nn.functional.pad(spatial, (self.tokens - self.spatial_tokens, 0)),
            ],
            1,
        )

    def extra_repr(self) -> str:
        """Return the shape for `repr`."""
        return (
            f"tokens={self.tokens}, width={self.width}, spatial_tokens={self.spatial_tokens}, "
            f"gate={self.gate_kind}, normalize={self.normalize}"
        )

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of each branch, (B, P, D) and (B, Q, D)."""
        x = check_input(self, x, dtype=self.layers.query.dtype)
        n_pooled = self.tokens - self.spatial_tokens
        return x[:, :n_pooled], x[:, n_pooled:]

    def _run(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of both branches, and the gate, which broadcasts to them."""
        x_pooled, x_spatial = self._split(x)
        of_layers = self.layers.features(x_pooled)
        of_spatial = self.spatial.features(x_spatial)
        logit = self.spatial_share.logit()
        if isinstance(self.gate, nn.ParameterDict):
            logit = logit + self.gate["bias"]
        elif self.gate is not None:
            logit = logit + self.gate(torch.cat([of_layers, of_spatial], 1))
        layers = self.layers.classifier(of_layers)
        return layers, self.spatial.classifier(of_spatial), logit.sigmoid()


class FusionBranch(nn.Module):
    """One branch of a fusion head, on the tokens of both; the tokens of the other have no effect.

    A trained fusion head whose spatial share is 0 or 1 is such a head. The branch is the attribute
    `layers` or `spatial`, as in FusionHead.
    """

    def __init__(
        self,
        *,
        tokens: int,
        width: int,
        classes: int,
        spatial_tokens: int,
        branch: Literal["layers", "spatial"],
        num_heads: int | None = None,
        embedding_ids: Sequence[int] | None = None,
        dropout: float = 0.0,
        normalize: bool = True,
        device: DeviceLikeType | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draw the branch as AttentiveHead does.

        Args:
            tokens: T, of which the first P are pooled tokens.
            width: D.
            classes: C, the number of outputs.
            spatial_tokens: Q, the last Q of the T tokens.
            branch: The branch over pooled tokens ("layers") or over spatial ones ("spatial").
            num_heads: H of the branch over layers; by default P. The spatial branch has 8.
            embedding_ids: See FusionHead.
            dropout: Rate at which attention weights are dropped in training.
            normalize: L2-normalize each token first, as `layercache.probe` does.
            device: Device of the parameters.
            dtype: Dtype of the parameters, float32 by default.
        """
        super().__init__()
        spec = check_shape(
            "fusion",
            tokens=tokens,
            width=width,
            classes=classes,
            spatial_tokens=spatial_tokens,
            num_heads=num_heads,
            gate="scalar",
            branch=branch,
            embedding_ids=None if embedding_ids is None else tuple(embedding_ids),
        )
        self.tokens, self.width, self.classes = tokens, width, classes
        self.spatial_tokens, self.branch, self.normalize = spatial_tokens, branch, normalize
        self._tokens = spec.branch_tokens(branch)
        shape = spec.branches[0 if branch == LAYERS else 1]
        self.add_module(branch, _branch_head(shape, dropout=dropout, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, D) of any float dtype to logits (B, C).

        In training mode BatchNorm needs at least two images.
        """
        logits: Tensor = self._head(self._own(x))
        return logits

    def attention(self, x: Tensor) -> Tensor:
        """Return the attention weights of the branch, (B, H, T), before dropout.

        They sum to 1 over its tokens and are 0 on the others.
        """
        padding = (self._tokens.start, self.tokens - self._tokens.stop)
        return nn.functional.pad(self._head.attention(self._own(x)), padding)

    def extra_repr(self) -> str:
        """Return the shape for `repr`."""
        return (
            f"tokens={self.tokens}, width={self.width}, spatial_tokens={self.spatial_tokens}, "
            f"branch={self.branch}, normalize={self.normalize}"
        )

    @property
    def _head(self) -> HybridHead:
        head = self.get_submodule(self.branch)
        assert isinstance(head, HybridHead)
        return head

    def _own(self, x: Tensor) -> Tensor:
        """Return the tokens of the branch."""
        x = check_input(self, x, dtype=self._head.query.dtype)
        return x[:, self._tokens]


def _branch_head(
    shape: HeadSpec, *, dropout: float, device: DeviceLikeType | None, dtype: torch.dtype | None
) -> HybridHead:
    return HybridHead(
        tokens=shape.tokens,
        width=shape.width,
        classes=shape.classes,
        num_heads=shape.num_heads,
        embedding_ids=shape.embedding_ids,
        dropout=dropout,
        normalize=False,
        device=device,
        dtype=dtype,
    )
