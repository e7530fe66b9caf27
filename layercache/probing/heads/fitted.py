"""A trained head in memory.

Shapes: B images, S tokens, D width, C classes, H attention heads.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layercache.errors import HeadMismatchError, ProbeError
from layercache.probing.heads import KINDS, AttendingHead, HeadSpec, build
from layercache.probing.heads.fusion import SHARE, BatchedFusionHead
from layercache.probing.heads.fusion_branch import BatchedFusionBranch
from layercache.probing.heads.spec import SPATIAL


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedHead:
    """A trained head: `predict` returns logits of tokens, `attention` the attention weights."""

    spec: HeadSpec
    """Kind and shape; logreg, ridge and lda are linear heads."""
    state_dict: Mapping[str, Tensor]
    """State dict of the reference module, float32 on the CPU; empty if training diverged or
    only the metrics were asked for."""
    hparams: Mapping[str, float]
    """Hyperparameters by name."""
    seed: int
    """Seed of initial parameters, batch order and noise."""
    losses: tuple[float, ...] = ()
    """Mean training loss of each epoch; of fusion the sum of those of its branches and gate."""
    val_curve: tuple[tuple[int, Mapping[str, float]], ...] = ()
    """(epoch from 1, validation metrics after it), in order, of the epochs that were evaluated."""
    val_metrics: Mapping[str, float] | None = None
    """Metrics on the validation rows (see `metrics.evaluate`), or None without them."""
    diverged_at: int | None = None
    """First step whose loss or gradient was not finite; such a head must not be selected."""
    batch_size: int | None = None
    """Rows per batch; None if the head was not trained in batches, as for the next two."""
    steps: int | None = None
    """Optimizer steps behind `state_dict`."""
    epochs: int | None = None
    """Epochs behind `state_dict` (with early stopping: the best one, counted from 1)."""
    converged: bool | None = None
    """The solver of a logistic regression converged; None for other heads."""

    @property
    def diverged(self) -> bool:
        """Training diverged."""
        return self.diverged_at is not None

    @property
    def n_params(self) -> int:
        """Number of trainable parameters (without BatchNorm's buffers)."""
        head = build(self.spec)
        names = set(head.init_parameters(torch.Generator())) - set(head.buffers)
        return sum(p.numel() for name, p in self.state_dict.items() if name in names)

    def predict(self, tokens: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Return logits (B, C), float32, on the tokens' device.

        Args:
            tokens: (B, S, D), L2-normalized or not.

        Raises:
            HeadMismatchError: The tokens have another shape.
        """
        x = self._normalize(tokens)
        with torch.inference_mode():
            head = build(self.spec)
            return head.logits(self._stacked(x.device), head.preprocess(x), train=False)[0]

    def attention(self, tokens: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Return attention weights (B, H, S), float32, which sum to 1 over S.

        A scalar mix has weights that are the same for every image, one row for each mean. A fusion
        head has the attention heads of both branches, or of the only one that it consists of.

        Args:
            tokens: (B, S, D), L2-normalized or not.

        Raises:
            HeadMismatchError: The tokens have another shape.
            ProbeError: The head has no attention.
        """
        x = self._normalize(tokens)
        if not self.spec.has_attention:
            raise ProbeError(
                f"a {self.spec.kind} head has no attention; the other trained heads do "
                f"({', '.join(kind for kind in KINDS if kind != self.spec.kind)})"
            )
        head = typing.cast(AttendingHead, build(self.spec))
        with torch.inference_mode():
            weights = head.attention(self._stacked(x.device), head.preprocess(x))
            return weights[:, :, 0].transpose(1, 2).contiguous()

    def gate(self, tokens: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Return the share of the spatial branch in each logit of a fusion head, float32 (B, C).

        Args:
            tokens: (B, S, D), L2-normalized or not.

        Raises:
            HeadMismatchError: The tokens have another shape.
            ProbeError: The head has no gate.
        """
        x, head = self._normalize(tokens), build(self.spec)
        if not isinstance(head, BatchedFusionHead | BatchedFusionBranch):
            raise ProbeError(f"a {self.spec.kind} head has no gate; fusion heads do")
        with torch.inference_mode():
            return head.gate(self._stacked(x.device), head.preprocess(x))[0]

    def with_spatial_share(self, share: float) -> FittedHead:
        """Return the fusion head with another share of its spatial branch, from 0 to 1.

        A learned gate moves from this share; at 0 and 1 the head is one branch exactly, and the
        other one is left out.

        Raises:
            ProbeError: It is not a fusion head, or has only one branch, which excludes this share.
        """
        if self.spec.kind != "fusion":
            raise ProbeError(f"a {self.spec.kind} head has no branches; fusion heads do")
        spec = self.spec.at_share(share)
        if self.spec.branch not in ("", spec.branch):
            raise ProbeError(
                f"expected share {int(self.spec.branch == SPATIAL)} of a fusion head that consists "
                f"of its {self.spec.branch} branch, got {share}: the other one was not trained"
            )
        state = {**self.state_dict, SHARE: torch.tensor([share])}
        if spec.branch:
            prefix = BatchedFusionBranch(spec, spec.branch).prefix
            state = {name: p for name, p in self.state_dict.items() if name.startswith(prefix)}
        hparams = {**self.hparams, SHARE: share}
        return replace(self, spec=spec, state_dict=state, hparams=hparams)

    def describe_input(self) -> str:
        """Return the expected input in words, for errors."""
        return f"tokens (images, {self.spec.tokens}, {self.spec.input_width})"

    def _normalize(self, tokens: Tensor | np.ndarray[Any, Any]) -> Tensor:
        x = torch.as_tensor(tokens).float()
        if x.ndim != 3 or x.shape[1:] != (self.spec.tokens, self.spec.input_width):
            raise HeadMismatchError(
                f"this {self.spec.kind} head expects {self.describe_input()}, got {tuple(x.shape)}"
            )
        return torch.nn.functional.normalize(x, dim=-1)

    def _stacked(self, device: torch.device) -> dict[str, Tensor]:
        """Return the parameters as those of a single configuration, G = 1."""
        return {name: p.to(device)[None] for name, p in self.state_dict.items()}
