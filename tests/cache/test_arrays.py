from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from layercache.errors import OptionError, UnknownNameError


def test_arrays_are_the_tokens_of_the_split(planted: Callable[..., Any]) -> None:
    cache = planted()
    split = cache.split("train")
    everything = cache.to_numpy()
    assert everything.shape == (240, 8, 8)
    assert everything.dtype == np.float16
    assert everything.flags.c_contiguous
    assert cache.pairs()[:3] == ((1, "cls"), (1, "ap"), (2, "cls"))
    for layers, tokens, pairs in (
        (2, "ap", [(2, "ap")]),
        ([1, 3], ["cls"], [(1, "cls"), (3, "cls")]),
        ("last", "cls+ap", [(4, "cls"), (4, "ap")]),
    ):
        expected = split.read(pairs).transpose(1, 0, 2)
        assert np.array_equal(cache.to_numpy(layers=layers, tokens=tokens), expected)
        assert torch.equal(
            cache.to_torch(layers=layers, tokens=tokens), torch.from_numpy(expected.copy())
        )
    with pytest.raises(OptionError, match="layers: expected numbers from 1 to 4"):
        cache.to_numpy(layers="9")
    with pytest.raises(UnknownNameError, match="token kind 'patch'"):
        cache.to_numpy(tokens="patch")


def test_matrix_is_contiguous_float32_of_unit_tokens(planted: Callable[..., Any]) -> None:
    cache = planted()
    matrix = cache.to_matrix("test", tokens="cls")
    assert matrix.shape == (120, 8)
    assert matrix.dtype == np.float32
    assert matrix.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, rtol=1e-5)
    raw = cache.to_matrix("test", layers="all", normalize=False)
    assert np.array_equal(raw, cache.to_numpy("test").reshape(120, -1).astype(np.float32))


def test_dataframe_has_annotations_and_a_column_for_each_token(
    planted: Callable[..., Any],
) -> None:
    cache = planted()
    frame = cache.to_dataframe(layers=[2], tokens="cls")
    assert list(frame.columns) == ["split", "label", "2:cls"]
    assert list(frame.index) == cache.split("train").ids + cache.split("test").ids
    of_test = frame[frame["split"] == "test"]
    stacked = np.stack(of_test["2:cls"].to_list())
    assert np.array_equal(stacked, cache.to_numpy("test", layers=2, tokens="cls")[:, 0])
    assert of_test["label"].cat.codes.tolist() == cache.split("test").labels.tolist()
    assert len(cache.to_dataframe("test")) == 120


def test_torch_dataset_gives_tokens_and_label(planted: Callable[..., Any]) -> None:
    cache = planted()
    dataset = cache.to_torch_dataset(layers="last", tokens="cls")
    assert len(dataset) == 240
    loader = torch.utils.data.DataLoader(dataset, batch_size=100)
    x, y = next(iter(loader))
    assert x.shape == (100, 1, 8)
    assert y.tolist() == cache.split("train").labels[:100].tolist()
