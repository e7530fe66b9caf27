from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from layercache.errors import HeadMismatchError, NonFiniteError
from layercache.probing.data.resident import ResidentTokens
from layercache.probing.data.split_selection import SplitSelection, TokenSource
from tests.probing.data.reading import CPU, PAIRS, expected, read_all, select


def test_selection_of_two_caches_concatenates_their_tokens(
    memory_split: Callable[..., Any],
) -> None:
    one, two = memory_split(), memory_split()
    two.x = two.x + 1
    both = SplitSelection((TokenSource(one, PAIRS), TokenSource(two, ((2, "ap"),))), np.arange(100))
    assert both.pairs == (*PAIRS, (2, "ap"))
    x, _ = read_all(ResidentTokens(both, device=CPU), [0, 50])
    torch.testing.assert_close(
        x, torch.cat([expected(one, [0, 50]), expected(two, [0, 50], ((2, "ap"),))], dim=1)
    )


def test_selection_of_caches_with_other_samples_is_refused(
    memory_split: Callable[..., Any],
) -> None:
    one, two = memory_split(), memory_split()
    two.ids[3] = "another"
    with pytest.raises(
        HeadMismatchError,
        match="same samples in split 'train', got 100 and 100 rows whose ids differ",
    ):
        select(one, two)


def test_selection_of_caches_of_other_widths_and_dtypes_is_padded(
    memory_split: Callable[..., Any],
) -> None:
    wide, narrow = memory_split(dtype="float32"), memory_split(width=4)
    both = SplitSelection(
        (TokenSource(wide, PAIRS), TokenSource(narrow, ((2, "ap"),))), np.arange(100)
    )
    assert (both.width, both.dtype) == (8, np.float32)
    x, _ = read_all(ResidentTokens(both, device=CPU), [0, 50])
    padded = torch.nn.functional.pad(expected(narrow, [0, 50], ((2, "ap"),)), (0, 4))
    torch.testing.assert_close(x, torch.cat([expected(wide, [0, 50]), padded], dim=1))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_read_of_a_token_that_is_not_finite_names_it(
    memory_split: Callable[..., Any], bad: float, dtype: str
) -> None:
    split = memory_split(dtype=dtype)
    split.x[0, 0, 0, :4] = (
        np.finfo(dtype).max,
        -np.finfo(dtype).max,
        -0.0,
        np.finfo(dtype).smallest_subnormal,
    )
    ResidentTokens(select(split), device=CPU)
    split.x[2, 1, 42, 3] = bad
    remedy = {"float16": "--storage-dtype float32", "float32": "`layercache cache verify`"}[dtype]
    with pytest.raises(
        NonFiniteError,
        match=rf"layer 3, token 'ap' of sample 'sample-42' \(train\) is not finite .*{remedy}",
    ):
        ResidentTokens(select(split), device=CPU)
