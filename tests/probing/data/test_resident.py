from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from layercache.probing.data.resident import ResidentTokens
from tests.probing.data.reading import CPU, expected, read_all, select


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_resident_batches_are_the_requested_tokens_normalized(
    memory_split: Callable[..., Any], dtype: str
) -> None:
    split = memory_split(dtype=dtype)
    dataset = ResidentTokens(select(split), device=CPU)
    x, y = read_all(dataset, [5, 2, 99])
    torch.testing.assert_close(x, expected(split, [5, 2, 99]))
    assert y.tolist() == split.labels[[5, 2, 99]].tolist()
    assert x.dtype == torch.float32
    assert x.is_contiguous()


def test_resident_tokens_with_few_kept_rows_skip_the_other_blocks(
    memory_split: Callable[..., Any],
) -> None:
    split = memory_split(rows=100, block=16)
    kept_rows = [3, 20, 21, 97]
    dataset = ResidentTokens(select(split, kept_rows=kept_rows), device=CPU)
    x, y = read_all(dataset, [0, 1, 2, 3])
    torch.testing.assert_close(x, expected(split, kept_rows))
    assert y.tolist() == split.labels[kept_rows].tolist()
    assert split.reads == [(0, 16), (16, 32), (96, 100)], "blocks without a kept row are not read"


def test_iter_batches_in_training_is_a_permutation_of_seed_and_epoch(
    memory_split: Callable[..., Any],
) -> None:
    split = memory_split()
    split.labels = np.arange(100)
    dataset = ResidentTokens(select(split), device=CPU)
    rows = torch.arange(0, 100, 2)
    orders = [
        read_all(dataset, rows, seed=s, epoch=e, train=True)[1].tolist()
        for s, e in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == rows.tolist() for order in orders)
    assert [len(y) for _, y in dataset.iter_batches(rows, batch_size=32, train=True)] == [32, 18]
