"""Dropout in training: of attention weights, of whole layers, and of kinds of tokens.

Attention dropout drops single attention weights. Layer dropout leaves out each layer of an image
with a given probability, kind dropout each kind of token (all CLS, all AP). Attention is then over
the tokens that are left; heads without attention see zeros instead, and the other tokens scaled up.
As LayerDrop (arXiv 1909.11556) and ModDrop (arXiv 1501.00102) do for layers of a transformer and
for modalities, this keeps a head from relying on a few tokens. All configurations share the draws.

Shapes: B rows of a batch, S tokens, H attention heads, N groups of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from layercache.probing.heads import HeadSpec

STREAM = 2**32 + 2
"""Stream of randomness of a seed, apart from those of `ConfigBatch`."""


class AttentionDropout:
    """Draws the numbers that decide which attention weights a step drops.

    Both branches of a fusion head draw from generators of the same seed, so that each gets the
    numbers that it would get alone.
    """

    def __init__(self, spec: HeadSpec, *, seed: int, device: torch.device) -> None:
        """Seed the generators.

        Args:
            spec: Head with attention.
            seed: Seed of each generator.
            device: Device of the draws.
        """
        self._shapes, self._device = spec.dropout_shapes, device
        self._generators = [torch.Generator(device).manual_seed(seed) for _ in self._shapes]

    def draw(self, n_rows: int) -> Tensor:
        """Return the draws of the next batch, (B, S, H).

        Those of two branches are one after the other in each row, (B, S1*H1 + S2*H2).

        Args:
            n_rows: B.
        """
        draws = [
            torch.rand((n_rows, *shape), generator=generator, device=self._device)
            for shape, generator in zip(self._shapes, self._generators, strict=True)
        ]
        return draws[0] if len(draws) == 1 else torch.cat([d.flatten(1) for d in draws], 1)

    def get_state(self) -> list[Tensor]:
        """Return the states of the generators."""
        return [generator.get_state() for generator in self._generators]

    def set_state(self, states: Sequence[Tensor]) -> None:
        """Continue from `get_state`."""
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)


class TokenDropout:
    """Draws the tokens that each image of a batch keeps, by seed and step alone."""

    def __init__(self, spec: HeadSpec, *, layer_rate: float, kind_rate: float, seed: int) -> None:
        """Group the tokens; the spatial tokens of a fusion head are never left out.

        Args:
            spec: Head, with the layer and kind of each token.
            layer_rate: Probability that a layer is left out.
            kind_rate: Probability that a kind of token is left out.
            seed: Seed.
        """
        self._n_tokens, self._n_fixed, self._seed = spec.tokens, spec.spatial_tokens, seed
        n_grouped = spec.tokens - spec.spatial_tokens
        rates = ((spec.layer_ids, layer_rate), (spec.kind_ids, kind_rate))
        self._groups = [
            (torch.tensor(ids[:n_grouped]), rate) for ids, rate in rates if ids is not None and rate
        ]

    def draw(self, n_rows: int, *, step: int) -> Tensor | None:
        """Return which tokens each row keeps, bool (B, S) on the CPU; None if all are kept.

        A row keeps at least one layer and one kind; one that would lose all tokens keeps them all.

        Args:
            n_rows: B.
            step: Number of the step, from 0.
        """
        if not self._groups:
            return None
        state = np.random.SeedSequence([self._seed, STREAM, step]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state & (2**63 - 1)))
        n_grouped = self._n_tokens - self._n_fixed
        kept_bs = torch.ones(n_rows, n_grouped, dtype=torch.bool)
        for ids, rate in self._groups:
            uniform_bn = torch.rand(n_rows, int(ids.max()) + 1, generator=generator)
            kept_bn = (uniform_bn >= rate) | (uniform_bn == uniform_bn.amax(1, keepdim=True))
            kept_bs &= kept_bn[:, ids]
        kept_bs |= ~kept_bs.any(1, keepdim=True)
        fixed = torch.ones(n_rows, self._n_fixed, dtype=torch.bool)
        return torch.cat([kept_bs, fixed], 1)


def drop_tokens(x_bsd: Tensor, kept_bs: Tensor) -> Tensor:
    """Return tokens of which the dropped ones are 0, and the K kept ones scaled by S / K.

    Args:
        x_bsd: Tokens.
        kept_bs: Which to keep, bool (B, S).
    """
    factors_bs = kept_bs * (kept_bs.shape[1] / kept_bs.sum(1, keepdim=True))
    return x_bsd * factors_bs[..., None].to(x_bsd.dtype)
