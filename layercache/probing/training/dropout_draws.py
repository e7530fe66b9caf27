"""Random numbers that decide which attention weights a step of training drops.

Shapes: B rows of a batch, S tokens, H attention heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layercache.probing.heads import HeadSpec


class DropoutDraws:
    """Uniform draws for each attention weight, which all configurations share.

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
