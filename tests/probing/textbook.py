"""Reference heads, written plainly: one configuration, keys and values of every token."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TextbookAttentive(nn.Module):
    """Attention of one query over the tokens, output map, BatchNorm, classifier (PROTOCOL.md)."""

    def __init__(
        self,
        *,
        tokens: int,
        width: int,
        classes: int,
        heads: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads = heads or tokens
        self.length = 2 * (width // self.heads)
        inner = self.heads * self.length
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        self.norm_query, self.norm_key, self.norm_value = (
            nn.LayerNorm(width),
            nn.LayerNorm(width),
            nn.LayerNorm(width),
        )
        self.to_query, self.to_key, self.to_value = (
            nn.Linear(width, inner, bias=False) for _ in range(3)
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(inner, width)
        self.batch_norm = nn.BatchNorm1d(width)
        self.classifier = nn.Linear(width, classes)

    def attention(self, x_bsd: Tensor) -> Tensor:
        """Return attention weights (B, H, S)."""
        b, s, _ = x_bsd.shape
        q = self.to_query(self.norm_query(self.query)).view(self.heads, 1, self.length)
        k = self.to_key(self.norm_key(x_bsd)).view(b, s, self.heads, self.length).transpose(1, 2)
        return (q @ k.transpose(-1, -2) * self.length**-0.5).softmax(-1)[:, :, 0]

    def forward(self, x_bsd: Tensor, kept_bhs: Tensor | None = None) -> Tensor:
        """Return logits (B, C); `kept_bhs` replaces dropout by a given factor per weight."""
        b, s, _ = x_bsd.shape
        v = (
            self.to_value(self.norm_value(x_bsd))
            .view(b, s, self.heads, self.length)
            .transpose(1, 2)
        )
        a = self.attention(x_bsd)
        a = self.dropout(a) if kept_bhs is None else a * kept_bhs
        o = (a[:, :, None] @ v)[:, :, 0].reshape(b, -1)
        return self.classifier(self.batch_norm(self.output(o)))


class TextbookLinear(nn.Module):
    """One affine map of the concatenated tokens."""

    def __init__(self, *, tokens: int, width: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(tokens * width, classes)

    def forward(self, x_bsd: Tensor) -> Tensor:
        return self.classifier(x_bsd.flatten(1))


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
        n: torch.stack([s[n] for s in states]).clone().requires_grad_("running" not in n)
        for n in states[0]
        if n in names
    }
