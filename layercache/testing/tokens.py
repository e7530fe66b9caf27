"""Tokens in memory, as training reads them.

Shapes: N rows, S tokens of a row, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from layercache.probing.training.config import Noise


class InMemoryTokens:
    """Tokens in memory as a `TokenLoader`: a short reference for the library's datasets."""

    def __init__(self, x_nsd: Tensor, labels: Tensor) -> None:
        """Normalize the tokens.

        Args:
            x_nsd: Tokens, float32.
            labels: int64 (N,), or 0/1 (N, C) if multi-label.
        """
        import torch

        self.x, self.labels = torch.nn.functional.normalize(x_nsd, dim=-1), labels
        self.rows, self.tokens, self.width = x_nsd.shape

    def with_labels(self, labels: np.ndarray[Any, Any]) -> Self:
        """Return the same tokens with other labels."""
        import torch

        other = copy(self)
        other.labels = torch.from_numpy(labels).to(self.labels.device)
        return other

    def iter_batches(
        self,
        rows: Tensor,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        noise: Noise | None,
        token_groups: Sequence[int] | None = None,
        train: bool,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches; see `TokenLoader`."""
        import torch

        groups = list(token_groups or (self.tokens,))
        first, *others = (torch.Generator().manual_seed(seed * 10_000 + epoch) for _ in groups)
        if train:
            rows = rows[torch.randperm(len(rows), generator=first)]
            for other in others:
                other.set_state(first.get_state())
        for part in torch.split(rows, batch_size):
            x = self.x[part]
            if train and noise is not None:
                x = x.clone()
                for tokens, generator in zip(
                    torch.split(x, groups, 1), (first, *others), strict=True
                ):
                    selected = torch.rand(len(part), 1, 1, generator=generator) < noise.probability
                    normal = torch.randn(tokens.shape, generator=generator)
                    tokens += (selected * noise.std * normal).to(x.device)
            yield x, self.labels[part]


def make_separable_tokens(
    *,
    rows: int = 300,
    tokens: int = 4,
    width: int = 16,
    classes: int = 3,
    strength: float = 0.6,
    seed: int = 0,
) -> InMemoryTokens:
    """Return tokens around one center per class and token, with classes of unequal size.

    Args:
        rows: N.
        tokens: S.
        width: D.
        classes: C.
        strength: Length of the centers relative to the noise.
        seed: Seed of tokens and labels.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    class_sizes = torch.arange(1.0, classes + 1)
    labels = torch.multinomial(class_sizes, rows, replacement=True, generator=generator)
    centers = torch.randn(classes, tokens, width, generator=generator)
    noise = torch.randn(rows, tokens, width, generator=generator)
    return InMemoryTokens(strength * centers[labels] + noise, labels)
