"""The public modules in their readable form, and helpers to compare parameters of G of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layercache import heads


class TextbookAttentive(heads.AttentiveHead):
    """`forward_reference` of tokens that are normalized already."""

    def __init__(self, **shape: int) -> None:
        super().__init__(**shape, normalize=False)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_reference(x)


class TextbookHybrid(heads.HybridHead):
    """`forward_reference` of tokens that are normalized already."""

    def __init__(self, *, embedding_ids: tuple[int, ...], **shape: int) -> None:
        super().__init__(**shape, embedding_ids=embedding_ids, normalize=False)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_reference(x)


class TextbookLinear(heads.LinearHead):
    """The linear head of tokens that are normalized already."""

    def __init__(self, **shape: int) -> None:
        super().__init__(**shape, normalize=False)  # type: ignore[arg-type]


class TextbookScalarMix(heads.ScalarMixHead):
    """The scalar mix of tokens that are normalized already."""

    def __init__(self, *, mix_ids: tuple[int, ...] | None, **shape: int) -> None:
        super().__init__(**shape, mix_ids=mix_ids, normalize=False)  # type: ignore[arg-type]


class TextbookEfficient(heads.EfficientHead):
    """Efficient probing of tokens that are normalized already."""

    def __init__(self, **shape: int) -> None:
        super().__init__(**shape, normalize=False)  # type: ignore[arg-type]


class TextbookFusion(heads.FusionHead):
    """The fusion head of tokens that are normalized already."""

    def __init__(self, *, gate: str, embedding_ids: tuple[int, ...] | None, **shape: int) -> None:
        super().__init__(**shape, gate=gate, embedding_ids=embedding_ids, normalize=False)  # type: ignore[arg-type]


class GivenDropout(nn.Module):
    """Multiplies attention weights (B, T, H) by given factors, in place of random ones."""

    def __init__(self, factors_bth: Tensor) -> None:
        super().__init__()
        self.factors_bth = factors_bth

    def forward(self, weights_bth: Tensor) -> Tensor:
        return weights_bth * self.factors_bth


def randomize(module: torch.nn.Module) -> torch.nn.Module:
    """Move every parameter away from its initial value, in float64.

    A LayerNorm of ones and zeros would hide faults in the fused form.
    """
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return module.double()


def stack_states(modules: list[torch.nn.Module], names: set[str]) -> dict[str, torch.Tensor]:
    """Return the named parameters of G modules as tensors (G, ...) that require gradients."""
    states = [m.state_dict() for m in modules]
    return {
        n: torch.stack([s[n] for s in states])
        .clone()
        .requires_grad_("running" not in n and n != "spatial_share")
        for n in states[0]
        if n in names
    }
