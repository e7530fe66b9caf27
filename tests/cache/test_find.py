from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from layercache.cache import Cache, find_caches, open_cache
from layercache.cache.find import cache_folders, matching_caches
from layercache.cache.format.origin import Origin
from layercache.cache.origin_records import record_origin
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
        "fingerprint, whose first digits are the name of its folder"
    )
    assert sorted(lines[1:]) == sorted(
        [
            f"  {cache.path}: source not recorded, 3 classes, 50 train + 7 test images, tap {tap}"
            for cache, tap in ((first, "norm2"), (second, "block"))
        ]
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
        match=r"2 caches [^\n]*\n[^\n]*, weights (ab|cd){6}\n[^\n]*, weights (ab|cd){6}$",
    ):
        open_cache(root=tmp_path)


def test_open_cache_of_an_ambiguous_request_lists_short_differences(tmp_path: Path) -> None:
    spec = make_spec(50)
    make_cache(tmp_path, spec)
    patches = tuple(f"patch/{i}" for i in range(400))
    make_cache(tmp_path, replace(spec, layers=(12,), tokens=("ap", *patches)))
    with pytest.raises(CacheAmbiguousError) as caught:
        open_cache(root=tmp_path)
    assert {line.partition("images, ")[2] for line in str(caught.value).splitlines()[1:]} == {
        "layers 6,12, tokens cls+ap",
        "layers 12, tokens ap+patch",
    }


def test_open_cache_without_a_match_lists_what_exists(tmp_path: Path) -> None:
    with pytest.raises(
        CacheNotFoundError,
        match=r"no cache of any model and dataset below .*; it holds none\. "
        r"Make one with: layercache extract --model vit_nano --dataset digits --cache ",
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


def make_of(root: Path, source: str | None, **changes: object) -> Cache:
    cache = make_cache(root, make_spec(50, **changes))
    if source is not None:
        record_origin(cache.path, Origin(dataset=source))
    return cache


def test_open_cache_of_a_source_takes_only_the_cache_extracted_from_it(tmp_path: Path) -> None:
    root, (one, two, three) = tmp_path / "root", (tmp_path / name for name in "123")
    sources = {}
    for folder, tap in ((one, "norm2"), (two, "block")):
        (folder / "shapes").mkdir(parents=True)
        sources[make_of(root, f"folder:{folder}/shapes", tap=tap).path] = f"folder:{folder}/shapes"
    for path, source in sources.items():
        assert open_cache(root=root, dataset=source).path == path
        assert cache_folders(root, dataset=source) == [path]
        assert [c.path for c in find_caches(root, dataset=source)] == [path]
        assert [c.path for c in matching_caches(root, dataset=source)] == [path]
    (three / "shapes").mkdir(parents=True)
    other = f"folder:{three}/shapes"
    with pytest.raises(CacheNotFoundError) as caught:
        open_cache(root=root, dataset=other)
    assert f"vit_tiny on folder:{one}/shapes, vit_tiny on folder:{two}/shapes" in str(caught.value)
    assert f"layercache extract --model MODEL --dataset {other} --cache {root}" in str(caught.value)
    assert find_caches(root, dataset=other) == []
    with pytest.raises(CacheAmbiguousError) as ambiguous:
        open_cache(root=root, dataset="shapes")
    assert f"folder:{one}/shapes, 3 classes, 50 train + 7 test images, tap norm2" in str(
        ambiguous.value
    )


def test_open_cache_of_a_moved_source_finds_it_at_both_places(tmp_path: Path) -> None:
    (tmp_path / "new" / "shapes").mkdir(parents=True)
    cache = make_of(tmp_path / "root", "folder:/old/shapes")
    record_origin(cache.path, Origin(dataset=f"folder:{tmp_path}/new/shapes"))
    for source in ("folder:/old/shapes", f"folder:{tmp_path}/new/shapes"):
        assert open_cache(root=tmp_path / "root", dataset=source).path == cache.path


@pytest.mark.parametrize(
    "dataset", ["folder:/nope/shapes", "csv:no/shapes.csv", "hf:./shapes?label=a"]
)
def test_every_lookup_of_a_source_that_does_not_exist_raises(tmp_path: Path, dataset: str) -> None:
    make_of(tmp_path, "folder:/old/shapes")
    make_of(tmp_path, None, tap="block")
    for look_up in (find_caches, cache_folders, matching_caches):
        with pytest.raises(CacheNotFoundError, match=r"no such file or folder.*folder:/old/shapes"):
            look_up(tmp_path, dataset=dataset)
    with pytest.raises(CacheNotFoundError, match="by its dataset's name, too: shapes"):
        open_cache(root=tmp_path, dataset=dataset)


def test_cache_without_a_recorded_source_is_found_by_name_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, source = tmp_path / "root", f"folder:{tmp_path}/shapes"
    (tmp_path / "shapes").mkdir()
    old = make_of(root, None)
    assert open_cache(root=root, dataset=source).path == old.path
    (message,) = caplog.messages
    assert message.startswith(f"{old.path}: its source is not recorded")
    assert open_cache(root=root, dataset="shapes").path == old.path
    new = make_of(root, source, tap="block")
    assert open_cache(root=root, dataset=source).path == new.path
    assert len(caplog.messages) == 1
    assert {c.path for c in find_caches(root, dataset=source)} == {old.path, new.path}
    assert len(caplog.messages) == 2


def test_open_cache_of_a_named_dataset_prefers_it_to_a_folder_of_that_name(tmp_path: Path) -> None:
    make_of(tmp_path, "folder:/my/shapes")
    named = make_of(tmp_path, "shapes", tap="block")
    assert open_cache(root=tmp_path, dataset="shapes").path == named.path
    assert len(find_caches(tmp_path, dataset="shapes")) == 2
