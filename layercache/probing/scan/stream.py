"""One pass over a split: normalized tokens in blocks that fit into the processor's cache.

Shapes: N rows of a block, M rows as stored, S tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layercache.probing.data.collate import NORM_EPS, allocate
from layercache.probing.data.dataset import TokenDataset
from layercache.probing.data.stored_tokens import StoredTokens
from layercache.probing.splits.stratified_split import Rows

BLOCK_ROWS = 2048


@dataclass(frozen=True, eq=False)
class Kept:
    """Tokens of some rows that stay in memory, in the storage dtype."""

    x_snd: Tensor
    """(S, N, D)."""
    rows: Rows
    """Their rows in the dataset, ascending."""

    @classmethod
    def empty(cls, dataset: TokenDataset, rows: Rows) -> Kept:
        """Return memory for rows of a dataset."""
        shape = (dataset.tokens, len(rows), dataset.width)
        return cls(allocate(shape, dataset.selection.dtype, device=dataset.device), rows)

    def put(self, stored: StoredTokens, positions: Tensor, rows: Tensor) -> None:
        """Copy those of the given rows that are to be kept.

        Args:
            stored: Tokens as stored.
            positions: Positions of the given rows along M.
            rows: Their row numbers in the dataset, ascending.
        """
        taken = np.isin(rows.numpy(), self.rows, assume_unique=True)
        if not taken.any():
            return
        start = int(np.searchsorted(self.rows, rows.numpy()[taken][0]))
        chosen = positions[torch.from_numpy(taken)]
        stored.select(chosen, out=self.x_snd[:, start : start + len(chosen)])

    def normalized(self, token: int, rows: slice = slice(None)) -> Tensor:
        """Return one token of unit length, float32 (N, D)."""
        x_nd = self.x_snd[token, rows]
        return _normalize(x_nd, out=torch.empty(x_nd.shape, device=x_nd.device))


def iter_blocks(
    dataset: TokenDataset, rows: Rows, *, keep: Sequence[Kept] = ()
) -> Iterator[tuple[Tensor, Rows]]:
    """Yield normalized tokens (S, N, D), float32, and their rows in the dataset; each row once.

    The memory of a block is used again for the next.

    Args:
        dataset: The tokens.
        rows: Rows to yield, ascending.
        keep: Rows to copy on the way, also others than those to yield.
    """
    wanted = np.unique(np.concatenate([rows, *(kept.rows for kept in keep)]))
    shape = (dataset.tokens, min(BLOCK_ROWS, len(rows)), dataset.width)
    buffer = allocate(shape, np.dtype(np.float32), device=dataset.device)
    for stored, positions, part_rows in dataset.iter_stored(wanted, order=None):
        for kept in keep:
            kept.put(stored, positions, part_rows)
        chosen = np.flatnonzero(np.isin(part_rows.numpy(), rows, assume_unique=True))
        for start in range(0, len(chosen), BLOCK_ROWS):
            index = torch.from_numpy(chosen[start : start + BLOCK_ROWS])
            block = buffer[:, : len(index)]
            for token, target in enumerate(block):
                # one token at a time stays in the processor's cache
                _normalize(stored.token(token, positions[index]), out=target)
            yield block, part_rows.numpy()[index.numpy()]


def _normalize(x_nd: Tensor, *, out: Tensor) -> Tensor:
    """Write tokens of unit length to `out`, float32 (N, D); a zero token stays zero."""
    out.copy_(x_nd)
    norm = torch.linalg.vector_norm(out, dim=-1, keepdim=True)
    return out.div_(norm.clamp_min_(NORM_EPS))
