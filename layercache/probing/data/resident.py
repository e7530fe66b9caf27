"""Datasets whose tokens fit into the memory of the device.

Shapes: N rows, S tokens of a row, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from layercache.probing.data.collate import shuffle
from layercache.probing.data.dataset import StoredPart, TokenDataset
from layercache.probing.data.split_selection import SplitSelection
from layercache.probing.data.stored_tokens import StoredTokens

READ_BATCH_BYTES = 64 * 2**20
"""Size of the row blocks that are requested at the same time over a network."""


class ResidentTokens(TokenDataset):
    """One copy of all tokens as they are stored, `selection.nbytes` on the device."""

    mode = "resident"

    def __init__(self, selection: SplitSelection, *, device: torch.device) -> None:
        super().__init__(selection, device=device)
        self._stored = StoredTokens(self._allocate(self.rows, device=device), self._decoders)
        if device.type == "cpu" and selection.keeps_all_rows:
            self._load_in_place()
        else:
            self._load_by_blocks()

    def iter_stored(
        self, rows: np.ndarray[Any, Any], *, order: torch.Generator | None
    ) -> Iterator[StoredPart]:
        """Yield all of `rows` as one part; see TokenDataset."""
        index = shuffle(torch.from_numpy(rows), order)
        index = index.to(self.device)
        yield self._stored, index, index

    def _load_in_place(self) -> None:
        arrays = [array.numpy() for array in self._stored.arrays]
        targets = [((a, b), [x[:, a:b] for x in arrays]) for a, b in self.selection.blocks]
        if self.selection.remote:
            self.selection.read_blocks(targets)
            return
        for rows, out in targets:
            self.selection.read(rows, out)

    def _load_by_blocks(self) -> None:
        """Read into a buffer of one block, or of those read at a time, and copy the kept rows.

        The buffer is pinned if the tokens go to a GPU.
        """
        blocks, max_rows = self.selection.blocks, self.selection.max_block_rows
        if not blocks:
            return
        n_buffers = 1
        if self.selection.remote:
            block_bytes = max_rows * self.selection.row_bytes
            n_buffers = min(len(blocks), -(-READ_BATCH_BYTES // block_bytes))
        buffers = [
            [
                torch.empty(
                    (len(x), max_rows, x.shape[2]),
                    dtype=x.dtype,
                    pin_memory=self.device.type == "cuda",
                )
                for x in self._stored.arrays
            ]
            for _ in range(n_buffers)
        ]
        for first in range(0, len(blocks), n_buffers):
            targets = [
                ((a, b), [x[:, : b - a] for x in buffer])
                for (a, b), buffer in zip(blocks[first : first + n_buffers], buffers, strict=False)
            ]
            if n_buffers > 1:
                self.selection.read_blocks(
                    [(rows, [x.numpy() for x in arrays]) for rows, arrays in targets]
                )
            else:
                self.selection.read(targets[0][0], [x.numpy() for x in targets[0][1]])
            for rows, arrays in targets:
                self._copy_kept_rows(rows, arrays)

    def _copy_kept_rows(self, rows: tuple[int, int], arrays: Sequence[torch.Tensor]) -> None:
        kept_rows = self.selection.kept_rows
        i, j = np.searchsorted(kept_rows, rows)
        for target, x in zip(self._stored.arrays, arrays, strict=True):
            if j - i < rows[1] - rows[0]:
                x = x.index_select(1, torch.from_numpy(kept_rows[i:j] - rows[0]))
            target[:, i:j].copy_(x)
