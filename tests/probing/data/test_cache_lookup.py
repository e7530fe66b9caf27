from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layercache.errors import CacheAmbiguousError, CacheNotFoundError, OptionError
from layercache.probing.data.cache_lookup import find_cache_for_heads, find_spatial_cache

PATCHES = ("cls", "ap", "patch/0", "patch/1")


def test_find_cache_for_heads_with_caches_that_differ_in_tokens_takes_the_smallest_sufficient(
    planted: Callable[..., Any], tmp_path: Path
) -> None:
    small, large = planted(), planted(kinds=PATCHES)
    root = tmp_path / "root"
    assert find_cache_for_heads(root=root, head=["linear", "attentive"]).path == small.path
    assert find_cache_for_heads(root=root, head=["attentive-tokens"]).path == large.path
    assert find_cache_for_heads(root=root, head=["hybrid"]).path == small.path
    assert (
        find_cache_for_heads(root=root, head=["linear"], tokens=["cls", "patch"]).path == large.path
    )
    assert (
        find_cache_for_heads(
            root=root, head=["linear"], fingerprint=large.spec.fingerprint[:8]
        ).path
        == large.path
    )
    with pytest.raises(CacheAmbiguousError, match="2 caches"):
        find_cache_for_heads(root=root, head=["linear"], tokens=["grid:2"])


def test_find_cache_for_heads_with_other_differences_is_ambiguous(
    planted: Callable[..., Any], tmp_path: Path
) -> None:
    planted()
    planted(weights="cd" * 32)
    with pytest.raises(CacheAmbiguousError, match="2 caches"):
        find_cache_for_heads(root=tmp_path / "root", head=["linear"])
    with pytest.raises(CacheNotFoundError):
        find_cache_for_heads(root=tmp_path / "root", model="another", head=["linear"])


def test_find_spatial_cache_needs_the_same_weights_and_images(
    planted: Callable[..., Any],
) -> None:
    small = planted()
    planted(kinds=PATCHES, weights="cd" * 32)
    with pytest.raises(OptionError, match="To extract them, run: layercache extract"):
        find_spatial_cache(small, spatial="patch", layers="last")
    large = planted(kinds=PATCHES)
    found = find_spatial_cache(small, spatial="patch", layers="last")
    assert found is not None
    assert found.path == large.path
    assert find_spatial_cache(large, spatial="patch", layers="last") is None
