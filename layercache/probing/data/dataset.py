"""Cached tokens as batches on the device.

Shapes: N rows, S tokens of a row (pairs of layer and token name), D width, B rows of a batch, C
classes. A batch is (B, S, D) float32, L2-normalized along D.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, Self

import numpy as np
import torch

from layercache.probing.data.collate import add_noise, allocate
from layercache.probing.data.split_selection import SplitSelection
from layercache.probing.data.stored_tokens import StoredTokens
from layercache.probing.data.token_decoder import TokenDecoder
from layercache.probing.training.config import Noise

Batch = tuple[torch.Tensor, torch.Tensor]
"""Tokens and labels."""
StoredPart = tuple[StoredTokens, torch.Tensor, torch.Tensor]
"""Tokens of M rows as stored, positions along M (B,), and their row numbers in the dataset (B,)."""


class LabelledTokens:
    """Tokens and labels of N rows; its subclasses hold the tokens or read them."""

    def __init__(
        self,
        *,
        rows: int,
        tokens: int,
        width: int,
        labels: np.ndarray[Any, Any],
        device: torch.device,
    ) -> None:
        self.device = device
        self.rows = rows
        """N."""
        self.tokens = tokens
        """S."""
        self.width = width
        """D."""
        self.labels = torch.from_numpy(np.require(labels, requirements=("C", "W"))).to(device)
        """(N,) int64, (N, C) uint8, or (N, C) float64 of a regression, on the device."""

    def with_labels(self, labels: np.ndarray[Any, Any]) -> Self:
        """Return the same tokens, which are not copied, with other labels of the N rows."""
        other = copy(self)
        other.labels = torch.from_numpy(np.require(labels, requirements=("C", "W"))).to(self.device)
        return other

    def iter_batches(
        self,
        rows: torch.Tensor | np.ndarray[Any, Any] | Sequence[int],
        *,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        noise: Noise | None = None,
        token_groups: Sequence[int] | None = None,
        train: bool,
    ) -> Iterator[Batch]:
        """Yield batches of the given rows.

        A batch is x (B, S, D) float32 with L2-normalized tokens, and y (B,) int64 or (B, C) uint8;
        the last one may be shorter. The memory of x is reused: the next batch overwrites it,
        because mapping new pages costs more on a CPU than the arithmetic on them.

        Args:
            rows: Row numbers of the dataset, from 0 to N - 1. Without `train` they must ascend if
                the dataset is streamed.
            batch_size: B.
            seed: Seed of order and noise.
            epoch: Number of the epoch; order and noise are functions of (seed, epoch) alone.
            noise: Noise of training batches.
            token_groups: Numbers of consecutive tokens, which sum to S; each group gets the noise
                that it would get alone. None: all tokens are one group.
            train: Shuffle the rows and add the noise; otherwise rows come in the given order.
        """
        index = np.asarray(rows, dtype=np.int64)
        groups = list(token_groups or (self.tokens,))
        noise_generators = [_generator(self.device, seed, epoch, 1) for _ in groups]
        order = _generator(torch.device("cpu"), seed, epoch, 0) if train else None
        size = min(batch_size, len(index))
        n_left, n_filled = len(index), 0
        buffer = allocate((size, self.tokens, self.width), np.dtype(np.float32), device=self.device)
        batch_rows: list[torch.Tensor] = []
        for stored, positions, part_rows in self.iter_stored(index, order=order):
            n_taken = 0
            while n_taken < len(positions):
                n = min(size - n_filled, len(positions) - n_taken)
                taken = slice(n_taken, n_taken + n)
                stored.gather(positions[taken], out=buffer[n_filled : n_filled + n])
                batch_rows.append(part_rows[taken])
                n_taken += n
                n_filled += n
                n_left -= n
                if n_filled == size or not n_left:
                    x = buffer[:n_filled]
                    if train and noise is not None:
                        for tokens, generator in zip(
                            torch.split(x, groups, 1), noise_generators, strict=True
                        ):
                            add_noise(tokens, noise, generator)
                    yield x, self.labels.index_select(0, torch.cat(batch_rows).to(self.device))
                    batch_rows, n_filled = [], 0

    def iter_stored(
        self, rows: np.ndarray[Any, Any], *, order: torch.Generator | None
    ) -> Iterator[StoredPart]:
        """Yield all of `rows` in parts of tokens as stored; a part is valid until the next.

        Args:
            rows: Row numbers of the dataset.
            order: Generator that shuffles the rows; None keeps their order.
        """
        raise NotImplementedError


class TokenDataset(LabelledTokens):
    """Tokens and labels of a selection; its subclasses hold the tokens or stream them."""

    mode = ""
    """"resident" or "stream"."""

    def __init__(self, selection: SplitSelection, *, device: torch.device) -> None:
        super().__init__(
            rows=len(selection.kept_rows),
            tokens=len(selection.pairs),
            width=selection.width,
            labels=selection.labels,
            device=device,
        )
        self.selection = selection
        self.pairs = selection.pairs
        """(layer, token name) of the S tokens."""
        self._decoders = tuple(
            TokenDecoder(array.codec, array.layers, device) if array.codec else None
            for array in selection.arrays
        )

    def _allocate(self, rows: int, *, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Return uninitialized arrays for the stored tokens of some rows."""
        return tuple(
            allocate((array.tokens, rows, array.width), array.dtype, device=device)
            for array in self.selection.arrays
        )


def _generator(device: torch.device, seed: int, epoch: int, stream: int) -> torch.Generator:
    """Return a generator for one purpose of one epoch, independent of all others."""
    state = int(np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0])
    return torch.Generator(device=device).manual_seed(state & (2**63 - 1))
