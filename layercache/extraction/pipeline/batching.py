"""Batches of the forward: which rows they hold, and their assembly from decoded chunks.

How a split is cut into batches depends on the size of a row block and on the batch size alone,
never on where a run was resumed or on which models run together: the same rows meet in the same
batch in every run, hence the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from layercache.extraction.pipeline.decode import RowRange
from layercache.extraction.pipeline.decoder import DecodedChunk

OUTPUT_LIMIT = 256 << 20
"""Largest number of bytes of tokens that a batch which spans several row blocks may produce."""


def batch_rows(batch_size: int, *, block_rows: int, row_bytes: int) -> int:
    """Return the rows of a full batch.

    This is `batch_size` or, where that exceeds a row block, the whole row blocks that fit into it
    (at least one): a row block of all patch tokens may hold eight images, and the forward then
    takes many row blocks at once.
    """
    if batch_size <= block_rows:
        return batch_size
    blocks = min(batch_size // block_rows, OUTPUT_LIMIT // (block_rows * row_bytes))
    return block_rows * max(1, blocks)


def batch_ranges(
    rows: int, *, block_rows: int, batch: int, pending: Collection[int]
) -> list[RowRange]:
    """Return the batches, ascending, that cover the pending row blocks of a split.

    Batches of up to a row block are cut from the start of each block. Larger ones cover whole
    blocks counted from row 0, all of them even where only one is pending, so that a batch never has
    other rows than in an uninterrupted run.

    Args:
        rows: Number of samples in the split.
        block_rows: Rows of a row block.
        batch: Rows of a full batch, from `batch_rows`.
        pending: Numbers of the row blocks to cover.
    """
    stride = max(block_rows, batch)
    starts = sorted({block * block_rows // stride * stride for block in pending})
    return [
        RowRange(start, min(start + batch, first + stride, rows))
        for first in starts
        for start in range(first, min(first + stride, rows), batch)
    ]


def drop_saved(
    batches: Sequence[RowRange], saved_rows: Mapping[int, int], *, block_rows: int
) -> list[RowRange]:
    """Return the batches without those whose rows are saved already.

    Args:
        batches: Batches of up to a row block, from `batch_ranges`.
        saved_rows: Row block -> number of its first rows that are saved, a multiple of the batch.
        block_rows: Rows of a row block.
    """
    return [
        batch
        for batch in batches
        if batch.start % block_rows >= saved_rows.get(batch.start // block_rows, 0)
    ]


def decode_chunks(batches: Sequence[Sequence[RowRange]]) -> list[RowRange]:
    """Return what is decoded together: all rows of the models' batches, cut wherever a batch is."""
    depth_changes: dict[int, int] = {}
    for start, stop in (batch for model in batches for batch in model):
        depth_changes[start] = depth_changes.get(start, 0) + 1
        depth_changes[stop] = depth_changes.get(stop, 0) - 1
    chunks, depth = [], 0
    for start, stop in pairwise(sorted(depth_changes)):
        depth += depth_changes[start]
        if depth:
            chunks.append(RowRange(start, stop))
    return chunks


@dataclass
class Batch:
    """Rows that go through the forward together."""

    transform: int
    """Index of the decoder's transform."""
    rows: RowRange
    models: list[int] = field(default_factory=list)
    """Indices of the models that have this batch."""
    failures: dict[int, str] = field(default_factory=dict)
    """Row -> reason, for the rows that could not be decoded."""
    pixels: np.ndarray[Any, Any] | None = None
    """uint8 (rows, 3, H, W); complete when `BatchAssembler.add` yields the batch."""


class BatchAssembler:
    """Assembles the batches of several models from chunks that are decoded once for all of them."""

    def __init__(self, batches: Sequence[Sequence[RowRange]], transforms: Sequence[int]) -> None:
        """Merge equal batches, so that their pixels are assembled and moved to the device once.

        Args:
            batches: Each model's batches, ascending.
            transforms: Each model's index of the decoder's transforms.
        """
        merged: dict[tuple[RowRange, int], Batch] = {}
        for model, (ranges, transform) in enumerate(zip(batches, transforms, strict=True)):
            for rows in ranges:
                batch = merged.setdefault((rows, transform), Batch(transform, rows))
                batch.models.append(model)
        self._waiting = deque(merged[key] for key in sorted(merged))
        self._begun: list[Batch] = []

    def add(self, chunk: DecodedChunk) -> Iterator[Batch]:
        """Add the next chunk, yield every completed batch; a batch of one chunk is not copied."""
        while self._waiting and self._waiting[0].rows.start <= chunk.rows.start:
            self._begun.append(self._waiting.popleft())
        for batch in self._begun:
            pixels = chunk.pixels[batch.transform]
            batch.failures |= chunk.failures
            if chunk.rows == batch.rows:
                batch.pixels = pixels
            else:
                if batch.pixels is None:
                    batch.pixels = np.empty((batch.rows.rows, *pixels.shape[1:]), pixels.dtype)
                first = chunk.rows.start - batch.rows.start
                batch.pixels[first : first + len(pixels)] = pixels
            if chunk.rows.stop == batch.rows.stop:
                yield batch
        self._begun = [batch for batch in self._begun if batch.rows.stop > chunk.rows.stop]
