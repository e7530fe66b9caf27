from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache.writing.partial_block import PartialBlock
from layercache.errors import StorageError
from layercache.extraction.pipeline.async_writer import QUEUE_SIZE, AsyncWriter, BlockAssembler
from layercache.extraction.pipeline.batching import batch_ranges, batch_rows
from layercache.extraction.pipeline.forward import HostTokens


class Writer:
    """Keeps what it is given, and returns the number of a block in place of its record."""

    def __init__(self, rows: int, block_rows: int) -> None:
        self.rows, self.block_rows = rows, block_rows
        self.got: dict[int, tuple[np.ndarray[Any, Any], dict[int, str]]] = {}
        self.saved: dict[int, PartialBlock] = {}

    def write(
        self,
        block: int,
        tokens_ltnd: np.ndarray[Any, Any],
        *,
        skipped: Mapping[int, str] | None = None,
    ) -> Any:
        assert block not in self.got
        assert tokens_ltnd.flags.c_contiguous
        self.got[block] = tokens_ltnd.copy(), dict(skipped or {})
        return block

    def save_partial(
        self,
        block: int,
        tokens_ltnd: np.ndarray[Any, Any],
        *,
        skipped: Mapping[int, str] | None = None,
    ) -> None:
        self.saved[block] = PartialBlock(tokens_ltnd.copy(), dict(skipped or {}))


def tokens(start: int, stop: int) -> np.ndarray[Any, Any]:
    """(2, 3, n, 4): every value says which it is."""
    return (np.arange(24).reshape(2, 3, 1, 4) + 100 * np.arange(start, stop)[:, None]).astype(
        np.float32
    )


@given(
    st.integers(1, 60),
    st.integers(0, 5).map(lambda n: 2**n),
    st.integers(1, 40),
    st.integers(1, 3),
    st.data(),
)
def test_block_assembler_with_batches_of_any_size_writes_every_pending_block(
    rows: int, block: int, size: int, max_uploads: int, data: st.DataObject
) -> None:
    pending = tuple(sorted(data.draw(st.sets(st.integers(0, -(-rows // block) - 1)))))
    bad = data.draw(st.sets(st.integers(0, rows - 1)))
    writer = Writer(rows, block)
    batch = batch_rows(size, block_rows=block, row_bytes=1)
    with AsyncWriter() as async_writer:
        blocks = BlockAssembler(writer, pending=pending, max_uploads=max_uploads)
        for start, stop in batch_ranges(rows, block_rows=block, batch=batch, pending=pending):
            async_writer.put(
                blocks,
                start,
                HostTokens(torch.from_numpy(tokens(start, stop)), 0.5),
                {row: "bad" for row in bad if start <= row < stop},
            )
    assert tuple(sorted(writer.got)) == pending
    assert blocks.records == {number: number for number in pending}
    for number, (got, skipped) in writer.got.items():
        first, last = number * block, min((number + 1) * block, rows)
        assert np.array_equal(got, tokens(first, last))
        assert set(skipped) == bad & set(range(first, last))


@pytest.mark.parametrize("max_uploads", [1, 4])
def test_async_writer_raises_what_the_writer_raised_and_does_not_hang(max_uploads: int) -> None:
    class Full(Writer):
        def write(
            self,
            block: int,
            tokens_ltnd: np.ndarray[Any, Any],
            *,
            skipped: Mapping[int, str] | None = None,
        ) -> Any:
            raise StorageError("full")

    def run() -> None:
        with AsyncWriter() as async_writer:
            blocks = BlockAssembler(Full(400, 4), pending=range(100), max_uploads=max_uploads)
            for start in range(0, 400, 4):
                async_writer.put(
                    blocks, start, HostTokens(torch.from_numpy(tokens(start, start + 4)), 0), {}
                )

    with pytest.raises(StorageError, match="full"):
        run()


def test_async_writer_with_an_exception_bounds_its_queue_and_writes_what_is_in_it() -> None:
    gate = threading.Event()
    handed = 0

    class Slow(Writer):
        def write(
            self,
            block: int,
            tokens_ltnd: np.ndarray[Any, Any],
            *,
            skipped: Mapping[int, str] | None = None,
        ) -> Any:
            gate.wait(10)
            return super().write(block, tokens_ltnd, skipped=skipped)

    writer = Slow(40, 4)

    def produce() -> None:
        nonlocal handed
        with AsyncWriter() as async_writer:
            blocks = BlockAssembler(writer, pending=range(10))
            for start in range(0, 40, 4):
                async_writer.put(
                    blocks, start, HostTokens(torch.from_numpy(tokens(start, start + 4)), 0), {}
                )
                handed += 1
                if handed == 8:
                    raise KeyboardInterrupt

    def run() -> None:
        with pytest.raises(KeyboardInterrupt):
            produce()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(0.3)
    assert handed <= QUEUE_SIZE + 1
    gate.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len(writer.got) == 8


def test_block_assembler_with_uploads_writes_blocks_at_the_same_time_from_separate_memory() -> None:
    together = threading.Barrier(3)

    class Slow(Writer):
        def write(
            self,
            block: int,
            tokens_ltnd: np.ndarray[Any, Any],
            *,
            skipped: Mapping[int, str] | None = None,
        ) -> Any:
            together.wait(10)  # three at a time, or none
            return super().write(block, tokens_ltnd, skipped=skipped)

    writer = Slow(24, 4)
    with AsyncWriter() as async_writer:
        blocks = BlockAssembler(writer, pending=range(6), max_uploads=3)
        for start in range(0, 24, 4):
            async_writer.put(
                blocks, start, HostTokens(torch.from_numpy(tokens(start, start + 4)), 0), {}
            )
    assert all(
        np.array_equal(writer.got[block][0], tokens(4 * block, 4 * block + 4)) for block in range(6)
    )
