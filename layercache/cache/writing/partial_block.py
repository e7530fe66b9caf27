"""The first rows of a row block that is not full yet, kept so that a killed run loses no more.

One file per block, next to the lock of its split: the record of the rows, a NUL byte, the tokens.
It is written to a temporary name and renamed, replaced by longer ones, and removed when the block
is committed; readers of the cache never look at it. Only in folders: an object store has no
temporary files.

Shapes: L layers, T token kinds, n rows, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from layercache.cache.format.crc32c import crc32c
from layercache.cache.format.layout import SplitLayout
from layercache.cache.format.records import PartialRecord
from layercache.cache.storage.base import Store
from layercache.errors import CacheCorruptError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class PartialBlock:
    """The first n rows of a row block."""

    tokens: Array
    """(L, T, n, D) in the storage dtype."""
    skipped: Mapping[int, str]
    """Row number of the split -> reason why it has no token."""

    @property
    def rows(self) -> int:
        """Number of rows n."""
        return int(self.tokens.shape[2])

    def first(self, rows: int, *, start: int) -> PartialBlock:
        """Return only the first rows of a block that begins at row `start` of the split."""
        skipped = {row: reason for row, reason in self.skipped.items() if row < start + rows}
        return PartialBlock(self.tokens[:, :, :rows], skipped)


def save_partial(store: Store, layout: SplitLayout, block: int, partial: PartialBlock) -> None:
    """Save the first rows of a block in place of fewer. Raises StorageError."""
    tokens = np.ascontiguousarray(partial.tokens)
    record = PartialRecord(
        fingerprint=layout.spec.fingerprint,
        split=layout.split,
        block=block,
        rows=partial.rows,
        crc32c=f"{crc32c(tokens):08x}",
        skipped={str(row): partial.skipped[row] for row in sorted(partial.skipped)},
    )
    store.put(layout.partial_block(block), [record.to_bytes() + b"\0", tokens])


def read_partials(
    store: Store, layout: SplitLayout, blocks: Collection[int]
) -> dict[int, PartialBlock]:
    """Return what was saved of some blocks; a damaged file counts as none."""
    partials = {}
    for block in blocks:
        key = layout.partial_block(block)
        data = store.read_many([key]).get(key)
        if data is not None and (partial := _parse(data, layout, block)) is not None:
            partials[block] = partial
    return partials


def remove_partials(store: Store, layout: SplitLayout, blocks: Collection[int]) -> None:
    """Remove what was saved of some blocks."""
    for block in blocks:
        store.delete(layout.partial_block(block))


def _parse(data: bytes, layout: SplitLayout, block: int) -> PartialBlock | None:
    header, _, content = data.partition(b"\0")
    try:
        record = PartialRecord.from_bytes(header, where=layout.partial_block(block))
    except CacheCorruptError:
        return None
    start, stop = layout.span(block)
    shape = (*layout.shape[:2], record.rows, layout.width)
    is_own = (record.fingerprint, record.split, record.block) == (
        layout.spec.fingerprint,
        layout.split,
        block,
    )
    is_whole = (
        0 < record.rows < stop - start
        and len(content) == record.rows * layout.chunks * layout.row_bytes
        and record.crc32c == f"{crc32c(content):08x}"
    )
    if not is_own or not is_whole:
        return None
    return PartialBlock(
        np.frombuffer(content, layout.dtype).reshape(shape),
        {int(row): reason for row, reason in record.skipped.items()},
    )
