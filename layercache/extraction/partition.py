"""How the row blocks of a split are shared out among workers: parts that no batch straddles, so that every batch has the members it always has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from layercache.cache.format.layout import SplitLayout
from layercache.cache.format.spec import CacheSpec
from layercache.extraction.pipeline.batching import RowRange, batch_rows, batches, pieces

PER_WORKER = 16
"""Parts of a split for each worker, where they are not too small: at the end some worker is a sixteenth of its share late."""
LEAST_BATCHES = 8
"""Batches of a part, so that filling and emptying the pipeline counts for little."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Row blocks of one split: a task."""

    split: str
    blocks: tuple[tuple[int, ...], ...]
    """Ascending; for each model of the job its own, which may be none."""
    rows: int
    """Images to be decoded."""
    images: tuple[int, ...]
    """Images that each model sees."""

    def __str__(self) -> str:
        """For people."""
        some = next(blocks for blocks in self.blocks if blocks)
        return f"row blocks {some[0]} to {some[-1]} of split {self.split!r}"


def lane_batches(
    spec: CacheSpec, split: str, pending: Collection[int], *, batch_size: int
) -> tuple[list[RowRange], int]:
    """The batches that cover the pending row blocks of one model, and the rows of a full one."""
    layout = SplitLayout(spec, split)
    batch = batch_rows(
        batch_size,
        block=layout.block_rows,
        row_bytes=len(spec.layers) * len(spec.tokens) * layout.row_bytes,
    )
    return batches(layout.rows, block=layout.block_rows, batch=batch, pending=pending), batch


def cut(
    specs: Sequence[CacheSpec],
    split: str,
    pending: Sequence[Collection[int]],
    *,
    batch_size: int,
    workers: int | None,
) -> list[Part]:
    """Parts that together hold every pending row block once; `workers` None: all in one.

    A stride is what must stay together: a row block, or the row blocks that a larger batch spans. Strides of several models are cut
    where the longest one is; as a rule they nest, and where they do not, an image at the cut is decoded twice.
    """
    strides = []
    for spec, blocks in zip(specs, pending, strict=True):
        block, (_, batch) = (
            SplitLayout(spec, split).block_rows,
            lane_batches(spec, split, blocks, batch_size=batch_size),
        )
        strides.append((block, max(block, batch)))
    longest = max(stride for _, stride in strides)
    units: dict[int, list[list[int]]] = {}
    for k, blocks in enumerate(pending):
        block, stride = strides[k]
        for b in sorted(blocks):
            units.setdefault(b * block // stride * stride // longest, [[] for _ in specs])[
                k
            ].append(b)
    if not units:
        return []
    each = (
        len(units)
        if workers is None
        else max(
            -(-len(units) // (PER_WORKER * workers)), -(-LEAST_BATCHES * batch_size // longest)
        )
    )
    order = sorted(units)
    return [
        _part(specs, split, [units[u] for u in order[i : i + each]], batch_size=batch_size)
        for i in range(0, len(order), each)
    ]


def _part(
    specs: Sequence[CacheSpec],
    split: str,
    units: Sequence[Sequence[Sequence[int]]],
    *,
    batch_size: int,
) -> Part:
    blocks = tuple(tuple(b for unit in units for b in unit[k]) for k in range(len(specs)))
    spans = [
        lane_batches(spec, split, own, batch_size=batch_size)[0]
        for spec, own in zip(specs, blocks, strict=True)
    ]
    images = tuple(sum(stop - start for start, stop in lane) for lane in spans)
    return Part(
        split=split,
        blocks=blocks,
        rows=sum(piece.rows for piece in pieces([lane for lane in spans if lane])),
        images=images,
    )
