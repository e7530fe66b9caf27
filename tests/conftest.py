"""Caches below the test's own folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The tensors of the tests are tiny: threads cost more than they give, and on a shared machine they
# wait for each other. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The duration of an example means nothing on a shared machine.
settings.register_profile("layercache", deadline=None)
settings.load_profile("layercache")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `real` unless $LAYERCACHE_REAL names the folder of checkpoint and data."""
    if "LAYERCACHE_REAL" in os.environ:
        return
    skip = pytest.mark.skip(
        reason="needs LAYERCACHE_REAL, the folder of clip.safetensors and data/"
    )
    for item in items:
        if item.get_closest_marker("real"):
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def no_fsync() -> Iterator[None]:
    """Makes fsync free in this process: no test cuts the power, and a run syncs thousands of files.

    Which files are synced in which order is tested by wrapping `os.fsync`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.fixture
def write_cache(tmp_path: Path) -> Callable[..., Any]:
    """`layercache.testing.write_cache` below tmp_path / "root"."""
    from layercache import testing

    return partial(testing.write_cache, root=tmp_path / "root")


@pytest.fixture
def planted(tmp_path: Path) -> Callable[..., Any]:
    """`layercache.testing.write_planted_cache` below tmp_path / "root"."""
    from layercache import testing

    return partial(testing.write_planted_cache, root=tmp_path / "root")
