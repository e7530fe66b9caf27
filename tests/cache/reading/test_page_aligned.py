from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layercache.cache.reading.page_aligned import PAGE_BYTES, empty_page_aligned
from layercache.testing import make_cache, make_spec


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (7,), (3, 5, 8), (24, 4096, 96)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_empty_page_aligned_begins_at_a_page(shape: tuple[int, ...], dtype: str) -> None:
    array = empty_page_aligned(shape, np.dtype(dtype))
    assert array.shape == shape
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert array.size == 0 or array.ctypes.data % PAGE_BYTES == 0
    array[...] = 1
    assert (array == 1).all()


def test_read_returns_an_array_that_begins_at_a_page(tmp_path: Path) -> None:
    split = make_cache(tmp_path, make_spec(10)).split("train")
    assert split.read([(12, "cls")]).ctypes.data % PAGE_BYTES == 0
