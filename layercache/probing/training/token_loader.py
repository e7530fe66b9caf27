"""Source of tokens to train on, as a protocol, so that training does not depend on caches.

Shapes: N rows of the dataset, S tokens of a row, D width, C classes, B rows of a batch.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor

from layercache.probing.training.config import Noise


class TokenLoader(typing.Protocol):
    """Tokens and labels of one split, in batches."""

    @property
    def rows(self) -> int:
        """N."""

    @property
    def tokens(self) -> int:
        """S."""

    @property
    def width(self) -> int:
        """D."""

    @property
    def labels(self) -> Tensor:
        """int64 (N,), or 0/1 (N, C) if multi-label; on any device."""

    def with_labels(self, labels: np.ndarray[Any, Any]) -> Self:
        """Return the same tokens with other labels of the N rows."""

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
        """Yield x float32 (B, S, D), each token L2-normalized, and its labels, on the device.

        Args:
            rows: Rows of the dataset, int64 on the CPU.
            batch_size: Rows of every batch but the last.
            seed: Seed of order and noise.
            epoch: Number of the epoch; order and noise are functions of (seed, epoch) alone.
            noise: Noise of training batches.
            token_groups: Numbers of consecutive tokens, which sum to S; each group gets the noise
                that it would get alone. None: all tokens are one group.
            train: Shuffle and add noise; otherwise rows come in the given order.
        """
