"""Division of a split's row blocks into tasks for workers.

No batch spans two tasks, so every batch has the same rows for any number of workers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from layercache.cache.format.cache_spec import CacheSpec
from layercache.cache.format.layout import SplitLayout
from layercache.extraction.pipeline.batching import batch_ranges, batch_rows, decode_chunks
from layercache.extraction.pipeline.decode import RowRange

TASKS_PER_WORKER = 16
"""Tasks of a split per worker, unless they get too small: at the end a worker is late by at most a
sixteenth of its share."""
MIN_BATCHES = 8
"""Least number of batches of a task, so that filling and emptying the pipeline costs little."""


@dataclass(frozen=True, kw_only=True)
class ExtractionTask:
    """Row blocks of one split, for all models."""

    split: str
    blocks: tuple[tuple[int, ...], ...]
    """Row blocks of each model, ascending; a model may have none."""
    rows: int
    """Number of images to decode, if no rows of a block are saved."""

    def __str__(self) -> str:
        """Return the task as named in messages."""
        blocks = next(blocks for blocks in self.blocks if blocks)
        return f"row blocks {blocks[0]} to {blocks[-1]} of split {self.split!r}"


def model_batches(
    spec: CacheSpec, split: str, pending: Collection[int], *, batch_size: int
) -> tuple[list[RowRange], int]:
    """Return the batches that cover one model's pending blocks, and the rows of a full batch."""
    layout = SplitLayout(spec, split)
    row_bytes = len(spec.layers) * len(spec.tokens) * layout.row_bytes
    batch = batch_rows(batch_size, block_rows=layout.block_rows, row_bytes=row_bytes)
    ranges = batch_ranges(layout.rows, block_rows=layout.block_rows, batch=batch, pending=pending)
    return ranges, batch


def partition(
    specs: Sequence[CacheSpec],
    split: str,
    pending: Sequence[Collection[int]],
    *,
    batch_size: int,
    workers: int | None,
) -> list[ExtractionTask]:
    """Divide the pending row blocks of a split into tasks; every block is in exactly one.

    A stride is what must stay together: a row block, or the row blocks that a larger batch spans.
    Strides of several models are cut where the longest one is; as a rule they nest, and where they
    do not, an image at the cut is decoded twice.

    Args:
        specs: Spec of each model's cache.
        split: Name of the split.
        pending: Pending row blocks of each model.
        batch_size: Batch size of the run.
        workers: Number of workers; None makes one task.
    """
    layouts = [SplitLayout(spec, split) for spec in specs]
    strides = [
        max(layout.block_rows, model_batches(spec, split, (), batch_size=batch_size)[1])
        for spec, layout in zip(specs, layouts, strict=True)
    ]
    longest = max(strides)
    units: dict[int, list[list[int]]] = {}
    for model, blocks in enumerate(pending):
        stride = strides[model]
        for block in sorted(blocks):
            start = block * layouts[model].block_rows // stride * stride
            unit = units.setdefault(start // longest, [[] for _ in specs])
            unit[model].append(block)
    if not units:
        return []
    units_per_task = len(units)
    if workers is not None:
        units_per_task = max(
            -(-len(units) // (TASKS_PER_WORKER * workers)), -(-MIN_BATCHES * batch_size // longest)
        )
    ordered = [units[number] for number in sorted(units)]
    return [
        _task(specs, split, ordered[first : first + units_per_task], batch_size=batch_size)
        for first in range(0, len(ordered), units_per_task)
    ]


def _task(
    specs: Sequence[CacheSpec],
    split: str,
    units: Sequence[Sequence[Sequence[int]]],
    *,
    batch_size: int,
) -> ExtractionTask:
    blocks = tuple(
        tuple(block for unit in units for block in unit[model]) for model in range(len(specs))
    )
    batches = [
        model_batches(spec, split, model_blocks, batch_size=batch_size)[0]
        for spec, model_blocks in zip(specs, blocks, strict=True)
    ]
    return ExtractionTask(
        split=split,
        blocks=blocks,
        rows=sum(chunk.rows for chunk in decode_chunks(batches)),
    )
