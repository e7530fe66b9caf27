"""Tasks hold every pending row block once, and their batches are those of an undivided run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache import CacheSpec, DatasetIdentity, SplitIdentity
from layercache.cache.format import layout
from layercache.extraction.partition import (
    MIN_BATCHES,
    TASKS_PER_WORKER,
    model_batches,
    partition,
)

ROWS = 5000


def spec(*, width: int, rows: int = ROWS) -> CacheSpec:
    """Return a spec of two tokens of `width`; `_small` makes its row blocks a few rows long."""
    identity = DatasetIdentity(
        name="d",
        limit=None,
        limit_seed=0,
        splits={"train": SplitIdentity(rows=rows, ids="i", content="c")},
    )
    return CacheSpec(
        model="m",
        architecture="a",
        weights="w",
        depth=1,
        width=width,
        tap="norm2",
        layers=(1,),
        tokens=("cls", "ap"),
        projected=False,
        preprocessing={},
        precision="fp32",
        storage_dtype="float16",
        dataset=identity,
    )


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_SHARD_BYTES", 2048 + 64)


def blocks(one: CacheSpec) -> int:
    return layout.SplitLayout(one, "train").blocks


@given(
    batch=st.integers(1, 300),
    workers=st.none() | st.integers(1, 40),
    widths=st.lists(st.sampled_from([4, 8, 16, 64]), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_partition_holds_every_block_once_and_cuts_no_batch(
    batch: int, workers: int | None, widths: list[int], seed: int
) -> None:
    specs, rng = [spec(width=width) for width in widths], np.random.default_rng(seed)
    pending = [[b for b in range(blocks(one)) if rng.random() < 0.7] for one in specs]
    tasks = partition(specs, "train", pending, batch_size=batch, workers=workers)
    for k, one in enumerate(specs):
        assert [b for task in tasks for b in task.blocks[k]] == pending[k]
        whole, _ = model_batches(one, "train", pending[k], batch_size=batch)
        divided = [
            rows
            for task in tasks
            for rows in model_batches(one, "train", task.blocks[k], batch_size=batch)[0]
        ]
        assert divided == whole, "a batch that spans two tasks would be done twice"
    for task in tasks:
        assert task.rows > 0
    if workers is None:
        assert len(tasks) <= 1


def test_partition_with_workers_makes_enough_tasks_and_none_too_small() -> None:
    one = spec(width=16)
    count, block = blocks(one), layout.SplitLayout(one, "train").block_rows
    for workers, batch in ((1, 4), (4, 4), (2, 64)):
        tasks = partition([one], "train", [range(count)], batch_size=batch, workers=workers)
        least = min(count, MIN_BATCHES * batch // block)
        assert all(len(task.blocks[0]) >= least for task in tasks[:-1])
        assert (
            TASKS_PER_WORKER * workers / 2 <= len(tasks) <= TASKS_PER_WORKER * workers
            or len(tasks[0].blocks[0]) == least
        )
    assert partition([one], "train", [()], batch_size=4, workers=2) == []
    assert str(tasks[0]).startswith("row blocks 0 to ")
    assert replace(tasks[0], split="x") != tasks[0]
