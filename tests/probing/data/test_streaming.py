from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from layercache.errors import OptionError, StorageError
from layercache.probing.data.collate import allocate
from layercache.probing.data.resident import ResidentTokens
from layercache.probing.data.split_selection import SplitSelection, TokenSource
from layercache.probing.data.streaming import StreamedTokens

CPU = torch.device("cpu")
PAIRS = ((1, "cls"), (2, "ap"), (3, "ap"))
ROW = 3 * 8 * 2


def select(split: Any, kept_rows: Any = None) -> SplitSelection:
    return SplitSelection(
        (TokenSource(split, PAIRS),),
        np.arange(split.rows) if kept_rows is None else np.asarray(kept_rows),
    )


def cloned(batches: Any) -> list[Any]:
    return [(x.clone(), y) for x, y in batches]


def streamed(split: Any, *, blocks: int, kept_rows: Any = None) -> StreamedTokens:
    return StreamedTokens(select(split, kept_rows), device=CPU, memory_budget=2 * blocks * 16 * ROW)


@pytest.mark.parametrize("blocks", [1, 3, 100])
@pytest.mark.parametrize("rows", [range(100), range(3, 90, 7)])
def test_streamed_batches_in_order_equal_resident_ones(
    memory_split: Callable[..., Any], blocks: int, rows: range
) -> None:
    split = memory_split()
    got = cloned(
        streamed(split, blocks=blocks).iter_batches(np.array(rows), batch_size=11, train=False)
    )
    want = cloned(
        ResidentTokens(select(split), device=CPU).iter_batches(
            np.array(rows), batch_size=11, train=False
        )
    )
    assert len(got) == len(want)
    for (x, y), (x2, y2) in zip(got, want, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("kept_rows", [None, [0, 5, 16, 17, 40, 41, 42, 60, 96, 99]])
def test_streamed_training_epoch_has_every_row_once_with_its_tokens(
    memory_split: Callable[..., Any], blocks: int, kept_rows: Any
) -> None:
    split = memory_split()
    split.labels = np.arange(100)
    dataset = streamed(split, blocks=blocks, kept_rows=kept_rows)
    resident = ResidentTokens(select(split, kept_rows), device=CPU)
    rows = np.arange(0, dataset.rows, 2)
    batches = cloned(dataset.iter_batches(rows, batch_size=7, seed=1, epoch=2, train=True))
    assert [len(y) for _, y in batches] == [
        len(y) for _, y in resident.iter_batches(rows, batch_size=7, train=True)
    ]
    y = torch.cat([y for _, y in batches])
    kept = np.arange(100) if kept_rows is None else np.asarray(kept_rows)
    assert sorted(y.tolist()) == kept[rows].tolist()
    assert y.tolist() != sorted(y.tolist())
    x = torch.cat([x for x, _ in batches])
    all_x, _ = next(
        iter(resident.iter_batches(np.arange(dataset.rows), batch_size=100, train=False))
    )
    assert torch.equal(x, all_x[np.searchsorted(kept, y.numpy())])


def test_streamed_order_depends_on_seed_and_epoch_and_mixes_the_blocks_of_a_window(
    memory_split: Callable[..., Any],
) -> None:
    split = memory_split(rows=96)
    split.labels = np.arange(96)
    dataset = streamed(split, blocks=3)

    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat(
            [
                y
                for _, y in dataset.iter_batches(
                    np.arange(96), batch_size=10, seed=seed, epoch=epoch, train=True
                )
            ]
        ).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(s, e)) for s, e in ((0, 0), (0, 1), (1, 0))}) == 3
    first = {i // 16 for i in order(0, 0)[:48]}
    assert len(first) == 3
    assert len({i // 16 for i in order(0, 0)[:10]}) > 1, "a batch mixes the blocks of its window"


def test_streaming_does_not_read_blocks_without_a_requested_row(
    memory_split: Callable[..., Any],
) -> None:
    split = memory_split()
    list(streamed(split, blocks=2).iter_batches(np.array([17, 18, 97]), batch_size=2, train=False))
    assert sorted(split.reads) == [(16, 32), (96, 100)]


def test_streaming_allocates_two_windows(
    memory_split: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = streamed(memory_split(rows=1000), blocks=3)
    taken: list[int] = []
    monkeypatch.setattr(
        "layercache.probing.data.dataset.allocate",
        lambda *a, **k: taken.append(allocate(*a, **k).nbytes) or allocate(*a, **k),
    )
    list(dataset.iter_batches(np.arange(1000), batch_size=10, train=True))
    _, *windows = taken  # the first is the batch
    assert windows == [3 * 16 * ROW] * 2, "two windows"


def test_streaming_a_long_epoch_begins_and_ends_with_small_windows(
    memory_split: Callable[..., Any],
) -> None:
    dataset = streamed(memory_split(rows=16 * 100), blocks=16)
    sizes = [
        len(places)
        for _, places, _ in dataset.iter_stored(
            np.arange(1600), order=torch.Generator().manual_seed(0)
        )
    ]
    assert sizes[:4] == [32, 64, 128, 256], "ramp of 2, 4, 8, 16 blocks"
    assert sizes[-3:] == [48, 32, 16]
    assert max(sizes) == 256
    assert sum(sizes) == 1600
    assert [len(places) for _, places, _ in dataset.iter_stored(np.arange(500), order=None)] == [
        256,
        256 - 12,
    ]


def test_streaming_with_a_failing_read_raises_its_error(memory_split: Callable[..., Any]) -> None:
    split = memory_split()
    dataset = streamed(split, blocks=1)

    def broken(*args: Any, **options: Any) -> None:
        raise StorageError("the disk is gone")

    split.read_stored = broken
    with pytest.raises(StorageError, match="the disk is gone"):
        list(dataset.iter_batches(np.arange(100), batch_size=10, train=True))


def test_streaming_after_an_abandoned_epoch_starts_anew(memory_split: Callable[..., Any]) -> None:
    split = memory_split()
    dataset = streamed(split, blocks=1)
    for _ in dataset.iter_batches(np.arange(100), batch_size=10, train=True):
        break
    y = torch.cat([y for _, y in dataset.iter_batches(np.arange(100), batch_size=10, train=False)])
    assert y.tolist() == split.labels.tolist()


def test_streaming_with_a_budget_below_two_blocks_is_refused(
    memory_split: Callable[..., Any],
) -> None:
    message = "expected at least 1536 bytes, got 1 kB: .* two row blocks of 16 samples"
    with pytest.raises(OptionError, match=message):
        StreamedTokens(select(memory_split()), device=CPU, memory_budget=1000)
