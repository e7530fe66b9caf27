"""Datasets that do not fit into memory: read from the cache again every epoch.

In an epoch the row blocks are shuffled and cut into windows of as many blocks as half the budget
holds; rows are shuffled within a window. While one window is used, the next is read, so two windows
are in memory at any time. A batch may span two windows, so that batches have the same sizes and
number as those of a resident dataset.

Shapes: N rows, S tokens of a row, D width, M rows of a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from layercache._units import format_bytes
from layercache.errors import OptionError
from layercache.probing.data.collate import shuffle
from layercache.probing.data.dataset import StoredPart, TokenDataset
from layercache.probing.data.split_selection import RowRange, SplitSelection
from layercache.probing.data.stored_tokens import StoredTokens

MIN_WINDOWS_FOR_RAMP = 4
"""An epoch of at least this many windows begins and ends with smaller ones."""
RAMP_DOUBLINGS = 3
"""The first window has 1 / 2^RAMP_DOUBLINGS of the full size, the next twice that, and so on."""


class StreamedTokens(TokenDataset):
    """Tokens that are read every epoch, within a budget of host memory in addition to one batch."""

    mode = "stream"

    def __init__(
        self, selection: SplitSelection, *, device: torch.device, memory_budget: int
    ) -> None:
        """Check that the budget holds two row blocks.

        Args:
            selection: Tokens and rows.
            device: Device of the batches.
            memory_budget: Bytes of host memory for the two windows.

        Raises:
            OptionError: The budget is smaller than `min_budget`.
        """
        super().__init__(selection, device=device)
        window_rows = memory_budget // 2 // selection.row_bytes
        if selection.max_block_rows > window_rows:
            raise OptionError(
                f"memory_budget: expected at least {min_budget(selection)} bytes, got "
                f"{format_bytes(memory_budget)}: streaming {self.tokens} tokens of width "
                f"{self.width} needs two row blocks of {selection.max_block_rows} samples; give "
                "more memory (--memory)"
            )
        self.window_rows = min(window_rows, sum(b - a for a, b in selection.blocks))
        """Rows of each of the two windows in memory."""

    def iter_stored(
        self, rows: np.ndarray[Any, Any], *, order: torch.Generator | None
    ) -> Iterator[StoredPart]:
        """Yield the rows window by window; see TokenDataset.

        Raises:
            ValueError: The rows do not ascend although `order` is None.
        """
        kept_rows = self.selection.kept_rows
        requested = np.zeros(self.selection.sources[0].split.rows, dtype=bool)
        requested[kept_rows[rows]] = True
        if order is None and (np.diff(rows) <= 0).any():
            raise ValueError(
                "rows of a streamed dataset come in the order of the cache: expected ascending rows"
            )
        windows = self._plan_windows(requested, order)
        # Allocated for the epoch only, so that the training and the test split can be streamed one
        # after the other within one budget.
        buffers = [
            self._allocate(self.window_rows, device=torch.device("cpu"))
            for _ in range(min(2, len(windows)))
        ]
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
            pending = reader.submit(self._read, windows[0], buffers[0]) if windows else None
            for w in range(len(windows)):
                assert pending is not None
                window_rows, buffer = pending.result(), buffers[w % 2]
                # The other buffer is free: its rows were copied before this part was requested.
                pending = None
                if w + 1 < len(windows):
                    pending = reader.submit(self._read, windows[w + 1], buffers[(w + 1) % 2])
                positions = shuffle(torch.from_numpy(np.flatnonzero(requested[window_rows])), order)
                part_rows = np.searchsorted(kept_rows, window_rows[positions.numpy()])
                stored = StoredTokens(buffer, self._decoders)
                yield stored, positions, torch.from_numpy(part_rows)

    def _plan_windows(
        self, requested: np.ndarray[Any, Any], order: torch.Generator | None
    ) -> list[list[RowRange]]:
        """Return the blocks with requested rows in windows, shuffled by `order`.

        In a long epoch windows grow towards the full size at the beginning and shrink at the end,
        because nothing is used while the first is read, and nothing read while the last is used.
        """
        blocks = [(a, b) for a, b in self.selection.blocks if requested[a:b].any()]
        if order is not None:
            blocks = [blocks[i] for i in torch.randperm(len(blocks), generator=order).tolist()]
        n_left, n_free = sum(b - a for a, b in blocks), 0
        ramp = RAMP_DOUBLINGS if n_left >= MIN_WINDOWS_FOR_RAMP * self.window_rows else 0
        windows: list[list[RowRange]] = []
        for a, b in blocks:
            if b - a > n_free:
                n_free = self.window_rows >> max(ramp - len(windows), 0)
                if ramp:
                    n_free = min(n_free, max(n_left // 2, self.window_rows >> ramp))
                windows.append([])
            windows[-1].append((a, b))
            n_free -= b - a
            n_left -= b - a
        return windows

    def _read(self, window: list[RowRange], buffer: Sequence[torch.Tensor]) -> np.ndarray[Any, Any]:
        """Fill the arrays of M rows and return the split's row number of each of them, (M,)."""
        arrays = [array.numpy() for array in buffer]
        stops = np.cumsum([b - a for a, b in window]).tolist()
        self.selection.read_blocks(
            [
                ((a, b), [x[:, stop - (b - a) : stop] for x in arrays])
                for (a, b), stop in zip(window, stops, strict=True)
            ]
        )
        return np.concatenate([np.arange(a, b) for a, b in window])


def min_budget(selection: SplitSelection) -> int:
    """Return the smallest memory budget for streaming: two windows of the largest row block."""
    return 2 * selection.max_block_rows * selection.row_bytes
