"""Records of a cache from someone else, with right checksums and wrong values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layercache.cache import Cache
from layercache.cache.format.layout import SplitLayout
from layercache.cache.format.records import BlockRecord, CompleteRecord
from layercache.errors import CacheCorruptError
from layercache.testing import make_cache, make_spec

DIGEST = "0" * 64


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return make_cache(tmp_path, make_spec(30), skipped={9: "truncated"})


def _complete(cache: Cache) -> CompleteRecord:
    layout = SplitLayout(cache.spec, "train")
    return CompleteRecord.from_bytes(cache.store.read(layout.complete), where="")


@pytest.mark.parametrize(
    "key",
    [
        "../../x",
        "/dev/zero",
        "/etc/passwd",
        "train.zarr/../../x",
        "train.zarr//x",
        "train.zarr/./x",
        "train.zarr/x\n",
        "train.zarr/x\0",
        "train.zarr",
        "train.zarr/tokens/c.0.0.0.0",
        "test.zarr/zarr.json",
        "commits/train/../../../x",
        "commits/train/00000001.json",
        "commits/train/0000000.json",
        "commits/train/complete.json",
        "commits/train.lock",
        "probes/0123456789ab/head.safetensors",
        "",
        ".",
    ],
)
def test_complete_record_with_a_foreign_key_is_refused(cache: Cache, key: str) -> None:
    record = _complete(cache)
    data = replace(record, files={**record.files, key: DIGEST}).to_bytes()
    with pytest.raises(CacheCorruptError, match=r"complete: \w+: expected .*, got "):
        CompleteRecord.of_split(data, SplitLayout(cache.spec, "train"), where="complete")


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 10**15},
        {"blocks": 10**15},
        {"blocks": 2},
        {"block_rows": 10**12},
        {"block_rows": 0},
        {"rows": True},
        {"rows": "30"},
        {"rows": 30.0},
        {"files": {}},
        {"files": []},
        {"files": {"spec.json": 7}},
        {"files": {"spec.json": "not hex"}},
        {"skipped": {"30": "outside"}},
        {"skipped": {"-1": "outside"}},
        {"skipped": {"09": "not canonical"}},
        {"skipped": {"9" * 5000: "huge"}},
        {"skipped": {"nine": "no number"}},
        {"skipped": {"9": None}},
        {"compressor": 3},
        {"split": "test"},
        {"split": ["train"]},
        {"fingerprint": None},
    ],
)
def test_complete_record_with_an_impossible_value_is_refused(
    cache: Cache, changes: Mapping[str, Any]
) -> None:
    data = replace(_complete(cache), **changes).to_bytes()
    with pytest.raises(CacheCorruptError, match=r"^complete: .*(expected|another cache|split)"):
        CompleteRecord.of_split(data, SplitLayout(cache.spec, "train"), where="complete")


def test_complete_record_with_an_unknown_compressor_is_refused(cache: Cache) -> None:
    file = cache.path / "commits" / "train" / "complete.json"
    file.write_bytes(replace(_complete(cache), compressor="zstd:99").to_bytes())
    with pytest.raises(CacheCorruptError, match=r"complete\.json: compressor 'zstd:99': expected"):
        cache.split("train")


@pytest.mark.parametrize(
    "changes",
    [
        {"bytes": 10**15},
        {"bytes": -1},
        {"bytes": 1.5},
        {"rows": 31},
        {"block": 1},
        {"crc32c": "xyz"},
        {"index_crc32c": ""},
        {"chunk_crc32c": "00000000"},
        {"chunk_crc32c": 7},
        {"skipped": {"32": "outside"}},
        {"fingerprint": 10**20},
    ],
)
def test_block_record_with_an_impossible_value_is_refused(
    cache: Cache, changes: Mapping[str, Any]
) -> None:
    layout = SplitLayout(cache.spec, "train")
    record = BlockRecord.from_bytes(cache.store.read(layout.record(0)), where="")
    data = replace(record, **changes).to_bytes()
    for checked in (False, True):
        with pytest.raises(CacheCorruptError, match=r"^record: .*(expected|another cache)"):
            BlockRecord.of_block(data, layout, 0, where="record", checked=checked)


@pytest.mark.parametrize("data", [b"[" * 100_000, b"{}", b"[1]", b"null", b"NaN", b"", b"\xff"])
def test_record_that_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(CacheCorruptError, match="complete: not a commit record"):
        CompleteRecord.from_bytes(data, where="complete")
