from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from layercache.errors import OptionError
from layercache.probing.data.loader import load_dataset
from tests.probing.data.reading import CPU, select

PAIRS = ((1, "cls"), (2, "ap"), (3, "ap"))
ROW = 3 * 8 * 2


def test_load_dataset_keeps_what_fits_and_streams_the_rest(
    memory_split: Callable[..., Any],
) -> None:
    split = memory_split()
    dataset, description = load_dataset(select(split, pairs=PAIRS), device=CPU)
    assert dataset.mode == "resident"
    assert "3 tokens x 100 samples x 8" in description
    assert "half of the free memory of cpu" in description
    dataset, description = load_dataset(
        select(split, pairs=PAIRS), device=CPU, memory_budget=100 * ROW - 1
    )
    assert dataset.mode == "stream"
    assert "more than 4.8 kB, the rest of memory_budget" in description
    assert load_dataset(select(split, pairs=PAIRS), device=CPU, mode="stream")[0].mode == "stream"
    with pytest.raises(OptionError, match="features: expected auto, resident or stream, got 'ram'"):
        load_dataset(select(split, pairs=PAIRS), device=CPU, mode="ram")
