from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layercache.errors import CacheAmbiguousError, CacheNotFoundError, OptionError
from layercache.probing.data.find_cache import choose_cache, spatial_cache

PATCHES = ("cls", "ap", "patch/0", "patch/1")


def test_the_smallest_cache_that_serves_is_taken_where_only_what_is_stored_differs(
    planted: Callable[..., Any], tmp_path: Path
) -> None:
    small, large = planted(), planted(kinds=PATCHES)
    root = tmp_path / "root"
    assert choose_cache(root=root, head=["linear", "attentive"]).path == small.path
    assert choose_cache(root=root, head=["attentive-tokens"]).path == large.path
    assert choose_cache(root=root, head=["hybrid"]).path == small.path
    assert choose_cache(root=root, head=["linear"], tokens=["cls", "patch"]).path == large.path
    assert (
        choose_cache(root=root, head=["linear"], fingerprint=large.spec.fingerprint[:8]).path
        == large.path
    )
    with pytest.raises(CacheAmbiguousError, match="2 caches"):
        choose_cache(root=root, head=["linear"], tokens=["grid:2"])


def test_caches_that_differ_otherwise_are_ambiguous(
    planted: Callable[..., Any], tmp_path: Path
) -> None:
    planted()
    planted(weights="cd" * 32)
    with pytest.raises(CacheAmbiguousError, match="2 caches"):
        choose_cache(root=tmp_path / "root", head=["linear"])
    with pytest.raises(CacheNotFoundError):
        choose_cache(root=tmp_path / "root", model="another", head=["linear"])


def test_spatial_tokens_are_found_in_a_cache_of_the_same_weights_and_images(
    planted: Callable[..., Any],
) -> None:
    small = planted()
    planted(kinds=PATCHES, weights="cd" * 32)
    with pytest.raises(OptionError, match="To extract them, run: layercache extract"):
        spatial_cache(small, spatial="patch", layers="last")
    large = planted(kinds=PATCHES)
    found = spatial_cache(small, spatial="patch", layers="last")
    assert found is not None
    assert found.path == large.path
    assert spatial_cache(large, spatial="patch", layers="last") is None
