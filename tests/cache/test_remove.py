from __future__ import annotations

from pathlib import Path

import pytest

from layercache.cache import find_caches
from layercache.cache.remove import remove
from layercache.errors import CacheBusyError
from layercache.testing import make_cache, make_spec, make_writer


def test_remove_deletes_one_cache_and_its_empty_parents(tmp_path: Path) -> None:
    first, second = (
        make_cache(tmp_path, make_spec(30)),
        make_cache(tmp_path, make_spec(30, tap="block")),
    )
    with (
        make_writer(tmp_path, make_spec(30), "test"),
        pytest.raises(CacheBusyError, match=r"commits/test\.lock: process \d+"),
    ):
        remove(first)
    assert len(find_caches(tmp_path)) == 2
    remove(first)
    assert [c.path for c in find_caches(tmp_path)] == [second.path]
    remove(second)
    assert list(tmp_path.iterdir()) == []
