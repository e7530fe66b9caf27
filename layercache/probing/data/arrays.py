"""Tokens of an array in memory, for estimators.

Shapes: N rows, S tokens of a row, D width, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from layercache._devices import free_memory
from layercache.probing.data.collate import shuffle
from layercache.probing.data.dataset import LabelledTokens, StoredPart
from layercache.probing.data.stored_tokens import plain_tokens
from layercache.probing.options import MEMORY_FRACTION


class ArrayTokens(LabelledTokens):
    """Tokens of an array, which is copied to a GPU if half of its free memory holds it.

    Otherwise the array stays where it is, and each batch is copied.
    """

    def __init__(
        self, x_nsd: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], *, device: torch.device
    ) -> None:
        """Refer to the array.

        Args:
            x_nsd: Tokens, float16 or float32.
            labels: (N,) int64, (N, C) uint8, or (N, C) float64 of a regression.
            device: Device of the batches.
        """
        rows, tokens, width = x_nsd.shape
        super().__init__(rows=rows, tokens=tokens, width=width, labels=labels, device=device)
        with warnings.catch_warnings():
            # of a read-only array, such as a memory map; nothing writes to these tokens
            warnings.simplefilter("ignore", UserWarning)
            self._x_snd = torch.from_numpy(x_nsd).transpose(0, 1)
        if device.type != "cpu" and x_nsd.nbytes <= MEMORY_FRACTION * free_memory(device):
            self._x_snd = self._x_snd.to(device)

    def iter_stored(
        self, rows: np.ndarray[Any, Any], *, order: torch.Generator | None
    ) -> Iterator[StoredPart]:
        """Yield all of `rows` as one part; see LabelledTokens."""
        index = shuffle(torch.from_numpy(rows), order)
        yield plain_tokens(self._x_snd), index.to(self._x_snd.device), index.to(self._x_snd.device)
