"""Tests of the GPU paths: the device gives what the CPU gives.

They are skipped without a CUDA device. LAYERCACHE_TEST_DEVICE=cpu runs them on the CPU, which
tests the tests.
"""

from __future__ import annotations

import os

import pytest
import torch

from layercache.cache.format import layout


@pytest.fixture
def device() -> torch.device:
    name = os.environ.get("LAYERCACHE_TEST_DEVICE", "cuda" if torch.cuda.is_available() else "")
    if not name:
        pytest.skip("needs a CUDA device")
    return torch.device(name)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Shards of at most 1 kB, so that few rows make several blocks: 8 rows at 2 x 2 x 8 float16."""
    monkeypatch.setattr(layout, "MAX_SHARD_BYTES", 1024)
    return 8
