from __future__ import annotations

import os
from pathlib import Path

import pytest

from layercache.cache import open_cache
from layercache.cache.format.origin import Origin
from layercache.cache.origin_records import record_origin
from layercache.cache.verify import verify
from layercache.testing import make_cache, make_spec
from tests.cache.folders import tree


def test_record_origin_twice_adds_one_file_and_changes_no_other(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, make_spec(50))
    before = tree(cache.path)
    for dataset in ("folder:/a/pets", "folder:/b/pets", "folder:/a/pets"):
        record_origin(cache.path, Origin(dataset=dataset))
    again = open_cache(cache.path)
    assert {origin.dataset for origin in again.origins} == {"folder:/a/pets", "folder:/b/pets"}
    after = tree(cache.path)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 2
    assert again.spec.fingerprint == cache.spec.fingerprint
    assert verify(again) == []


def test_source_is_the_origin_that_still_exists_then_the_latest(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "root", make_spec(50))
    assert cache.source is None
    here = tmp_path / "pets"
    here.mkdir()
    for age, dataset in enumerate([f"folder:{here}", "folder:/gone/pets", "folder:/old/pets"]):
        origin = Origin(dataset=dataset)
        record_origin(cache.path, origin)
        os.utime(cache.path / origin.key, (1000 - age, 1000 - age))
    assert open_cache(cache.path).source == f"folder:{here}"
    here.rmdir()
    assert open_cache(cache.path).origins[1].dataset == "folder:/gone/pets"


def test_record_origin_of_a_cache_that_cannot_be_written_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="layercache")
    cache = make_cache(tmp_path, make_spec(50))
    (cache.path / "origins").write_text("a file where the folder would be")
    before = tree(cache.path)
    record_origin(cache.path, Origin(dataset="folder:/a/pets"))
    assert "could not be recorded" in caplog.messages[-1]
    assert tree(cache.path) == before
    assert open_cache(cache.path).source is None


def test_damaged_origin_is_left_out_logged_and_found_by_verify(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = make_cache(tmp_path, make_spec(50))
    origin = Origin(dataset="folder:/a/pets")
    record_origin(cache.path, origin)
    file = cache.path / origin.key
    file.write_bytes(origin.to_bytes().replace(b"/a", b"/b"))
    assert open_cache(cache.path).source is None
    assert str(file) in caplog.messages[-1]
    (corruption,) = verify(cache.path)
    assert corruption.path == file
