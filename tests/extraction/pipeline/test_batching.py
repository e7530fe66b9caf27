from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from layercache.extraction.pipeline.batching import (
    OUTPUT_LIMIT,
    batch_ranges,
    batch_rows,
    decode_chunks,
)

sizes = st.integers(1, 70)
blocks_of = st.integers(0, 6).map(lambda n: 2**n)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int, set[int]]:
    rows, block = draw(st.integers(1, 300)), draw(blocks_of)
    batch = batch_rows(draw(sizes), block_rows=block, row_bytes=1000)
    pending = draw(st.sets(st.integers(0, -(-rows // block) - 1)))
    return rows, block, batch, pending


@given(cuts())
def test_batch_ranges_of_a_resumed_run_are_those_of_an_undisturbed_one(
    case: tuple[int, int, int, set[int]],
) -> None:
    rows, block, batch, pending = case
    undisturbed = batch_ranges(
        rows, block_rows=block, batch=batch, pending=range(-(-rows // block))
    )
    assert [row for start, stop in undisturbed for row in range(start, stop)] == list(range(rows))
    resumed = batch_ranges(rows, block_rows=block, batch=batch, pending=pending)
    assert set(resumed) <= set(undisturbed)
    assert resumed == sorted(resumed)
    covered = {row for start, stop in resumed for row in range(start, stop)}
    wanted = {row for row in range(rows) if row // block in pending}
    assert wanted <= covered
    if batch <= block:
        assert wanted == covered, "where batches fit a row block, nothing is computed twice"
    assert all(stop - start <= batch for start, stop in resumed)


def test_batch_rows_beyond_a_row_block_are_whole_blocks_within_the_output_limit() -> None:
    assert batch_rows(100, block_rows=128, row_bytes=1) == 100
    assert batch_rows(100, block_rows=32, row_bytes=1) == 96
    assert batch_rows(256, block_rows=8, row_bytes=OUTPUT_LIMIT // 32) == 32
    assert batch_rows(256, block_rows=8, row_bytes=2 * OUTPUT_LIMIT) == 8, "one block at least"
    assert batch_ranges(20, block_rows=4, batch=8, pending=[3]) == [(8, 16)]


@given(st.lists(cuts(), min_size=1, max_size=3))
def test_decode_chunks_are_cut_at_the_edges_of_all_batches_only(
    cases: list[tuple[int, int, int, set[int]]],
) -> None:
    plans = [
        batch_ranges(rows, block_rows=block, batch=batch, pending=pending)
        for rows, block, batch, pending in cases
    ]
    chunks = decode_chunks(plans)
    rows = [row for start, stop in chunks for row in range(start, stop)]
    assert rows == sorted(
        {row for plan in plans for start, stop in plan for row in range(start, stop)}
    )
    edges = {edge for chunk in chunks for edge in chunk}
    assert edges == {edge for plan in plans for span in plan for edge in span}
