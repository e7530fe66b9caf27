"""Datasets that do not fit into memory: read from the cache again every epoch.

In an epoch the row blocks are shuffled and cut into windows of as many blocks as half the budget
holds; rows are shuffled within a window. While one window is used, the next is read, so two windows
are in memory at any time. A batch may span two windows, so that batches have the same sizes and
number as those of a resident dataset.

Shapes: N rows, S tokens of a row, D width, M rows of a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from layercache._units import format_bytes
from layercache.errors import OptionError
from layercache.probing.data.collate import allocate, gather, normalize, shuffle
from layercache.probing.data.dataset import StoredPart, TokenDataset
from layercache.probing.data.selection import RowRange, SplitSelection

MIN_WINDOWS_FOR_RAMP = 4
"""An epoch of at least this many windows begins and ends with smaller ones."""
RAMP_DOUBLINGS = 3
"""The first window has 1 / 2^RAMP_DOUBLINGS of the full size, the next twice that, and so on."""
STAGING_ROWS = 2048
"""Rows that are copied to a GPU at a time."""


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
        shape = (self.tokens, self.window_rows, self.width)
        buffers = [
            allocate(shape, self.selection.dtype, device=torch.device("cpu"))
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
                yield buffer, positions, torch.from_numpy(part_rows)

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

    def _read(self, window: list[RowRange], buffer: torch.Tensor) -> np.ndarray[Any, Any]:
        """Fill the buffer (S, M, D) and return the split's row number of each of its rows, (M,)."""
        x_snd = buffer.numpy()
        stops = np.cumsum([b - a for a, b in window]).tolist()
        self.selection.read_blocks(
            [
                ((a, b), x_snd[:, stop - (b - a) : stop])
                for (a, b), stop in zip(window, stops, strict=True)
            ]
        )
        return np.concatenate([np.arange(a, b) for a, b in window])

    def _collate(self, x_snd: torch.Tensor, positions: torch.Tensor, *, out: torch.Tensor) -> None:
        if out.device.type == "cpu":
            gather(x_snd, positions, out=out)
            return
        for part, x_bsd in zip(
            torch.split(positions, STAGING_ROWS), torch.split(out, STAGING_ROWS), strict=True
        ):
            # torch caches pinned memory, so that this allocation is cheap after the first
            staged = torch.empty(
                (self.tokens, len(part), self.width), dtype=x_snd.dtype, pin_memory=True
            )
            # the copy to the GPU is complete when `to` returns, so that the window may be reused
            normalize(torch.index_select(x_snd, 1, part, out=staged).to(self.device), out=x_bsd)


def min_budget(selection: SplitSelection) -> int:
    """Return the smallest memory budget for streaming: two windows of the largest row block."""
    return 2 * selection.max_block_rows * selection.row_bytes
