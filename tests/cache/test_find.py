from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from layercache.cache import find_caches, open_cache
from layercache.errors import (
    CacheAmbiguousError,
    CacheNotFoundError,
)
from layercache.testing import make_cache, make_spec, make_tokens, make_writer, write_pending


def test_open_cache_chooses_by_model_path_or_fingerprint(tmp_path: Path) -> None:
    spec = make_spec(50)
    first = make_cache(tmp_path, spec)
    second = make_cache(tmp_path, replace(spec, tap="block"))
    third = make_cache(tmp_path, replace(spec, model="a/b", weights="cd" * 32))
    assert {c.path for c in find_caches(tmp_path)} == {first.path, second.path, third.path}
    assert open_cache(root=tmp_path, model="a/b").path == third.path
    assert open_cache(second.path).spec == second.spec
    assert open_cache(root=tmp_path, fingerprint=first.spec.fingerprint[:8]).path == first.path
    with pytest.raises(CacheAmbiguousError) as caught:
        open_cache(root=tmp_path, model="vit_tiny", dataset="shapes")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(
        f"2 caches below {tmp_path} match model 'vit_tiny', dataset 'shapes'; choose one by its "
        "path"
    )
    assert sorted(lines[1:]) == sorted(
        [f"  {first.path}: tap norm2", f"  {second.path}: tap block"]
    )


def test_open_cache_prefers_caches_with_committed_blocks(tmp_path: Path) -> None:
    spec = make_spec(50)
    with make_writer(tmp_path, replace(spec, weights="cd" * 32)) as writer:
        husk = writer.path
    assert open_cache(root=tmp_path).path == husk  # the only one there is
    cache = make_cache(tmp_path, spec)
    assert open_cache(root=tmp_path).path == cache.path
    with make_writer(tmp_path, replace(spec, weights="cd" * 32)) as writer:
        write_pending(writer, make_tokens(spec), stop_after=1)
    with pytest.raises(
        CacheAmbiguousError,
        match=r"2 caches [^\n]*\n[^\n]*: weights (ab|cd){6}\n[^\n]*: weights (ab|cd){6}$",
    ):
        open_cache(root=tmp_path)


def test_open_cache_of_an_ambiguous_request_lists_short_differences(tmp_path: Path) -> None:
    spec = make_spec(50)
    make_cache(tmp_path, spec)
    make_cache(
        tmp_path, replace(spec, layers=(12,), tokens=tuple(f"patch/{i}" for i in range(400)))
    )
    with pytest.raises(CacheAmbiguousError) as caught:
        open_cache(root=tmp_path)
    assert {line.partition(": ")[2] for line in str(caught.value).splitlines()[1:]} == {
        "layers 6,12, tokens cls+ap",
        "layers 12, tokens patch",
    }


def test_open_cache_without_a_match_lists_what_exists(tmp_path: Path) -> None:
    with pytest.raises(
        CacheNotFoundError,
        match=r"no cache of any model and dataset below .*; it holds none\. "
        r"Make one with: layercache extract",
    ):
        open_cache(root=tmp_path)
    make_cache(tmp_path, make_spec(50))
    with pytest.raises(
        CacheNotFoundError,
        match=r"no cache of model 'vit_huge' below .*; it holds vit_tiny on shapes",
    ):
        open_cache(root=tmp_path, model="vit_huge")
    with pytest.raises(CacheNotFoundError, match=r"is not a cache: it has no spec\.json"):
        open_cache(tmp_path)
