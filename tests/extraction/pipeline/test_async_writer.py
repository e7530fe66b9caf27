from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layercache.errors import StorageError
from layercache.extraction.pipeline.async_writer import DEPTH, AsyncWriter, BlockAssembler
from layercache.extraction.pipeline.batching import batch_rows, batches
from layercache.extraction.pipeline.forward import CpuTokens, FixedBatch


class Writer:
    """Keeps what it is given."""

    def __init__(self, rows: int, block_rows: int, pending: tuple[int, ...]) -> None:
        self.rows, self.block_rows, self.pending = rows, block_rows, pending
        self.got: dict[int, tuple[np.ndarray[Any, Any], dict[int, str]]] = {}

    def write(
        self,
        block: int,
        tokens_ltnd: np.ndarray[Any, Any],
        *,
        skipped: Mapping[int, str] | None = None,
    ) -> None:
        assert block not in self.got
        assert tokens_ltnd.flags.c_contiguous
        self.got[block] = tokens_ltnd.copy(), dict(skipped or {})


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
def test_blocks_are_put_together_from_batches_of_any_size(
    rows: int, block: int, size: int, at_once: int, data: st.DataObject
) -> None:
    pending = tuple(sorted(data.draw(st.sets(st.integers(0, -(-rows // block) - 1)))))
    bad = data.draw(st.sets(st.integers(0, rows - 1)))
    writer = Writer(rows, block, pending)
    with AsyncWriter() as behind:
        blocks = BlockAssembler(writer, at_once=at_once)
        for start, stop in batches(
            rows, block=block, batch=batch_rows(size, block=block, row_bytes=1), pending=pending
        ):
            behind.put(
                blocks,
                start,
                CpuTokens(torch.from_numpy(tokens(start, stop)), 0.5),
                {row: "bad" for row in bad if start <= row < stop},
            )
    assert tuple(sorted(writer.got)) == pending
    for number, (got, skipped) in writer.got.items():
        first, last = number * block, min((number + 1) * block, rows)
        assert np.array_equal(got, tokens(first, last))
        assert set(skipped) == bad & set(range(first, last))


@pytest.mark.parametrize("at_once", [1, 4])
def test_what_the_writer_raises_arrives_and_nobody_waits_for_ever(at_once: int) -> None:
    class Full(Writer):
        def write(
            self,
            block: int,
            tokens_ltnd: np.ndarray[Any, Any],
            *,
            skipped: Mapping[int, str] | None = None,
        ) -> None:
            raise StorageError("full")

    def run() -> None:
        with AsyncWriter() as behind:
            blocks = BlockAssembler(Full(400, 4, tuple(range(100))), at_once=at_once)
            for start in range(0, 400, 4):
                behind.put(
                    blocks, start, CpuTokens(torch.from_numpy(tokens(start, start + 4)), 0), {}
                )

    with pytest.raises(StorageError, match="full"):
        run()


def test_no_more_than_a_few_batches_wait_and_an_exception_keeps_what_was_handed_over() -> None:
    gate = threading.Event()
    handed = 0

    class Slow(Writer):
        def write(
            self,
            block: int,
            tokens_ltnd: np.ndarray[Any, Any],
            *,
            skipped: Mapping[int, str] | None = None,
        ) -> None:
            gate.wait(10)
            super().write(block, tokens_ltnd, skipped=skipped)

    writer = Slow(40, 4, tuple(range(10)))

    def produce() -> None:
        nonlocal handed
        with AsyncWriter() as behind:
            blocks = BlockAssembler(writer)
            for start in range(0, 40, 4):
                behind.put(
                    blocks, start, CpuTokens(torch.from_numpy(tokens(start, start + 4)), 0), {}
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
    assert handed <= DEPTH + 1
    gate.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len(writer.got) == 8


def test_blocks_are_written_at_the_same_time_from_memory_of_their_own() -> None:
    together = threading.Barrier(3)

    class Slow(Writer):
        def write(
            self,
            block: int,
            tokens_ltnd: np.ndarray[Any, Any],
            *,
            skipped: Mapping[int, str] | None = None,
        ) -> None:
            together.wait(10)  # three at a time, or none
            super().write(block, tokens_ltnd, skipped=skipped)

    writer = Slow(24, 4, tuple(range(6)))
    with AsyncWriter() as behind:
        blocks = BlockAssembler(writer, at_once=3)
        for start in range(0, 24, 4):
            behind.put(blocks, start, CpuTokens(torch.from_numpy(tokens(start, start + 4)), 0), {})
    assert all(
        np.array_equal(writer.got[block][0], tokens(4 * block, 4 * block + 4)) for block in range(6)
    )


def test_a_padded_backbone_sees_one_shape_and_gives_the_given_images_alone() -> None:
    seen = []

    def backbone(images: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(images.shape))
        return images.float().mean((1, 2, 3)).reshape(1, 1, -1, 1)

    images = torch.randint(1, 255, (3, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(FixedBatch(backbone, rows=5)(images), backbone(images))
    assert seen == [(5, 3, 4, 4), (3, 3, 4, 4)]
