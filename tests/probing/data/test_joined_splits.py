from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from layercache.probing.data.joined_splits import JoinedSplits
from layercache.probing.data.resident import ResidentTokens
from layercache.probing.data.split_selection import SplitSelection, TokenSource
from layercache.probing.data.streaming import StreamedTokens

PAIRS = ((1, "cls"), (3, "ap"))


@pytest.fixture
def joined(planted: Callable[..., Any]) -> JoinedSplits:
    """The 30 training and 12 test rows of a cache."""
    cache = planted(rows=30, test_rows=12)
    return JoinedSplits([cache.split("train"), cache.split("test")])


def test_joined_splits_have_the_rows_of_one_after_those_of_the_other(joined: JoinedSplits) -> None:
    train, test = joined.splits
    assert (joined.name, joined.rows) == ("train+test", 42)
    assert joined.ids == train.ids + test.ids
    assert np.array_equal(joined.labels, np.concatenate([train.labels, test.labels]))
    assert joined.blocks == [(0, 30), (30, 42)]
    whole = np.concatenate([train.read(PAIRS), test.read(PAIRS)], axis=1)
    for rows in ((0, 42), (0, 30), (30, 42), (5, 33), (31, 32), (7, 7)):
        assert np.array_equal(joined.read_stored(PAIRS, rows=rows), whole[:, slice(*rows)])
    assert np.array_equal(joined.read_stored(PAIRS), whole)


def test_datasets_of_joined_splits_hold_the_same_tokens(joined: JoinedSplits) -> None:
    kept = np.array([0, 3, 29, 30, 41])
    selection = SplitSelection((TokenSource(joined, PAIRS),), kept)
    expected = joined.read_stored(PAIRS)[:, kept].astype(np.float32).transpose(1, 0, 2)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    cpu = torch.device("cpu")
    streamed = StreamedTokens(selection, device=cpu, memory_budget=10**6)
    for dataset in (ResidentTokens(selection, device=cpu), streamed):
        x, y = next(iter(dataset.iter_batches(np.arange(5), batch_size=5, train=False)))
        np.testing.assert_allclose(x.numpy(), expected, atol=1e-6)
        assert y.tolist() == joined.labels[kept].tolist()
