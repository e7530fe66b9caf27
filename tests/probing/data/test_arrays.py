from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from layercache.probing.data.arrays import ArrayTokens
from layercache.probing.data.resident import ResidentTokens
from layercache.probing.training.config import Noise
from tests.probing.data.reading import CPU, PAIRS, read_all, select


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("train", [False, True])
def test_batches_of_an_array_equal_those_of_a_cache_to_the_bit(
    memory_split: Callable[..., Any], dtype: str, train: bool
) -> None:
    split = memory_split(dtype=dtype)
    x_nsd = np.stack([split.x[layer - 1, split.tokens.index(t)] for layer, t in PAIRS], axis=1)
    options = {"train": train, "seed": 3, "epoch": 2, "noise": Noise()}
    expected = read_all(ResidentTokens(select(split), device=CPU), np.arange(90), **options)
    for array in (x_nsd, x_nsd.astype(np.float32)):
        actual = read_all(ArrayTokens(array, split.labels, device=CPU), np.arange(90), **options)
        assert torch.equal(actual[0], expected[0])
        assert torch.equal(actual[1], expected[1])


def test_read_only_array_is_read_without_a_copy() -> None:
    x = np.ones((3, 1, 2), np.float32)
    x.flags.writeable = False
    labels = np.array([0, 1, 1])
    labels.flags.writeable = False
    dataset = ArrayTokens(x, labels, device=CPU)
    assert read_all(dataset, [2, 0])[1].tolist() == [1, 0]


def test_with_labels_shares_the_tokens_and_leaves_the_labels_of_the_other() -> None:
    dataset = ArrayTokens(np.ones((3, 1, 2), np.float32), np.array([0, 1, 1]), device=CPU)
    numbered = dataset.with_labels(np.arange(3))
    assert read_all(numbered, [2, 0])[1].tolist() == [2, 0]
    assert read_all(dataset, [2, 0])[1].tolist() == [1, 0]
