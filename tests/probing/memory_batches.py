"""Tokens in memory: what layercache.probing.data.resident does, in a dozen lines."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from layercache.probing.training.config import Noise


class MemoryBatches:
    def __init__(self, x_nsd: Tensor, labels: Tensor) -> None:
        self.x, self.labels = torch.nn.functional.normalize(x_nsd, dim=-1), labels
        self.rows, self.tokens, self.width = x_nsd.shape

    def iter_batches(
        self,
        rows: Tensor,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        noise: Noise | None,
        train: bool,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        draw = torch.Generator().manual_seed(seed * 10_000 + epoch)
        if train:
            rows = rows[torch.randperm(len(rows), generator=draw)]
        for part in rows.split(batch_size):
            x = self.x[part]
            if train and noise is not None:
                picked = torch.rand(len(part), 1, 1, generator=draw) < noise.probability
                x = x + (picked * noise.std * torch.randn(x.shape, generator=draw)).to(x.device)
            yield x, self.labels[part]


def separable(
    *,
    rows: int = 300,
    tokens: int = 4,
    width: int = 16,
    classes: int = 3,
    strength: float = 0.6,
    seed: int = 0,
) -> MemoryBatches:
    """Tokens around one centre per class and token; classes of unequal size."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(
        torch.arange(1.0, classes + 1), rows, replacement=True, generator=draw
    )
    centres = torch.randn(classes, tokens, width, generator=draw)
    return MemoryBatches(
        strength * centres[labels] + torch.randn(rows, tokens, width, generator=draw), labels
    )
