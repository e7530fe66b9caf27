from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from layercache.cache.format import layout
from tests.cache.folders import folder_in_memory


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory: the tests of this folder sync thousands of files."""
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Shards of at most 1 kB, so that few rows make several blocks: 8 rows at 2 x 2 x 8 float16."""
    monkeypatch.setattr(layout, "MAX_SHARD_BYTES", 1024)
    return 8
