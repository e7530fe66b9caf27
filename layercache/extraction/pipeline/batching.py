"""Which rows go through the network together, and how several models share one decode.

The cut depends on the size of a row block and the batch size alone, never on where a run was resumed or on the models beside:
the same rows meet in the same batch in every run, hence the same bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

OUTPUT_LIMIT = 256 << 20
"""A batch that spans several row blocks makes at most this many bytes of tokens."""

RowRange = tuple[int, int]
"""Rows start..stop-1."""


def batch_rows(batch: int, *, block: int, row_bytes: int) -> int:
    """Rows of one forward: `batch`, or where that exceeds a row block the whole row blocks that fit it (one at least).

    A row block of `--tokens all` may hold eight images: the forward then takes many row blocks at once.
    """
    if batch <= block:
        return batch
    return block * max(1, min(batch // block, OUTPUT_LIMIT // (block * row_bytes)))


def batches(rows: int, *, block: int, batch: int, pending: Collection[int]) -> list[RowRange]:
    """The batches, ascending, that cover the pending row blocks of a split of `rows` samples.

    `batch` comes from `batch_rows`. Up to a row block in size, batches are cut from each block's start; a larger one covers whole blocks
    counted from row 0, all of them even where only one is pending, so that a batch never has other members than in an undisturbed run.
    """
    stride = block if batch <= block else batch
    spans = sorted({b * block // stride * stride for b in pending})
    ends = [(start, min(start + stride, rows)) for start in spans]
    return [(s, min(s + batch, end)) for start, end in ends for s in range(start, end, batch)]


@dataclass(frozen=True)
class DecodeChunk:
    """Rows that are decoded together: the finest cut of all models' batches."""

    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start


def pieces(plans: Sequence[Sequence[RowRange]]) -> list[DecodeChunk]:
    """The rows that any of the plans covers, cut wherever one of them cuts, ascending."""
    edges: dict[int, int] = {}
    for start, stop in (span for plan in plans for span in plan):
        edges[start] = edges.get(start, 0) + 1
        edges[stop] = edges.get(stop, 0) - 1
    cuts = sorted(edges)
    found, depth = [], 0
    for here, after in pairwise(cuts):
        depth += edges[here]
        if depth:
            found.append(DecodeChunk(here, after))
    return found
