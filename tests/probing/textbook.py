"""The public modules in their readable form, and helpers to compare parameters of G of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layercache import heads
from layercache.probing.heads import Head


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


def assert_head_equals_modules(
    head: Head,
    modules: Sequence[nn.Module],
    *,
    rows: int,
    train: bool,
    dropped: bool,
    without_gradient: Collection[str] = (),
) -> None:
    """Check the logits, all gradients and the running statistics of G modules at random tokens.

    Args:
        head: The batched head.
        modules: A module for each configuration.
        rows: B.
        train: Both are in training mode.
        dropped: Attention weights are dropped, by the same draws.
        without_gradient: Parameters that have none in the batched head.
    """
    spec, n = head.spec, len(modules)
    p = stack_states(list(modules), set(head.init_parameters(torch.Generator())))
    x = F.normalize(torch.randn(rows, spec.tokens, spec.input_width, dtype=torch.float64), dim=-1)
    cotangent = torch.randn(n, rows, spec.classes, dtype=torch.float64)
    rates = torch.rand(n, dtype=torch.float64) * 0.8 if dropped else None
    draw = torch.rand(rows, spec.tokens, spec.num_heads, dtype=torch.float64)

    logits = head.logits(p, head.preprocess(x), train=train, dropout=rates, uniform_bsh=draw)
    (logits * cotangent).sum().backward()

    for g, module in enumerate(modules):
        if rates is not None and train:
            module.attention_dropout = GivenDropout((draw >= rates[g]) / (1 - rates[g]))
        expected = module(x)
        torch.testing.assert_close(logits[g], expected, rtol=1e-6, atol=1e-7)
        if train:
            (expected * cotangent[g]).sum().backward()
            for name, parameter in module.named_parameters():
                if name in without_gradient:
                    assert p[name].grad is None
                    continue
                torch.testing.assert_close(
                    p[name].grad[g],
                    parameter.grad,
                    rtol=1e-5,
                    atol=1e-6,
                    msg=lambda m, name=name: f"{name}: {m}",
                )
        for name, buffer in module.named_buffers():
            if "running" in name:
                torch.testing.assert_close(p[name][g], buffer)
