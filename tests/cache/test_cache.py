from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from layercache.cache import Cache, cache_folder, find_caches, open_cache
from layercache.cache.cache import extract_advice, extract_command
from layercache.cache.format.cache_spec import sha256_json
from layercache.cache.format.layout import SplitLayout
from layercache.cache.format.origin import Origin
from layercache.cache.origin_records import record_origin
from layercache.cache.verify import verify
from layercache.errors import (
    CacheCorruptError,
    CacheIncompleteError,
    CacheSchemaError,
)
from layercache.testing import make_cache, make_spec, make_tokens, make_writer, write_pending
from tests.cache.folders import make_schema_1_cache

PAIRS = [(6, "cls"), (6, "ap"), (12, "cls"), (12, "ap")]


def test_split_that_is_incomplete_raises_with_the_command_to_continue(
    tmp_path: Path, small_blocks: int
) -> None:
    spec = make_spec(50)
    with make_writer(tmp_path, spec) as writer:
        write_pending(writer, make_tokens(spec), stop_after=3)
    cache = open_cache(writer.path)
    assert cache.splits == ("train",)
    assert cache.progress("train") == (3, 7)
    command = (
        f"layercache extract --model vit_tiny --dataset shapes --layers 6,12 --cache {tmp_path}"
    )
    with pytest.raises(
        CacheIncompleteError,
        match=rf"split 'train' is incomplete: 3 of 7 row blocks are committed\. .*{command}",
    ):
        cache.split("train")
    with pytest.raises(CacheIncompleteError, match="split 'test' is incomplete: 0 of 1 row blocks"):
        cache.split("test")
    with make_writer(tmp_path, spec) as writer:
        write_pending(writer, make_tokens(spec))
    with pytest.raises(CacheIncompleteError, match="7 of 7 row blocks"):
        cache.split("train")


def test_split_with_records_of_another_cache_raises(tmp_path: Path) -> None:
    spec = make_spec(50)
    cache = make_cache(tmp_path, spec)
    other = make_cache(tmp_path, replace(spec, tap="block"))
    lay = SplitLayout(spec, "train")
    for key, text in {
        lay.record(0): "SHA-256 is not the one",
        lay.complete: f"belongs to another cache or split .{other.spec.fingerprint[:12]}",
    }.items():
        own = (cache.path / key).read_bytes()
        (cache.path / key).write_bytes((other.path / key).read_bytes())
        with pytest.raises(CacheCorruptError, match=text):
            cache.split("train").read(PAIRS)
        (cache.path / key).write_bytes(own)
    cache.split("train").read(PAIRS)


def test_open_cache_with_a_changed_spec_raises(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, make_spec(50))
    file = cache.path / "spec.json"
    good = file.read_text()
    for bad, text in {
        good.replace("norm2", "block"): "expected fingerprint",
        good[:-9]: "not the spec of a cache",
        good.replace('"tap"', '"top"'): "not the spec of a cache",
    }.items():
        file.write_text(bad)
        with pytest.raises(CacheCorruptError, match=text):
            open_cache(cache.path)


def test_extract_command_has_every_option_that_differs_from_its_default(tmp_path: Path) -> None:
    plain = make_spec(layers=tuple(range(1, 13)))
    assert (
        extract_command(Cache(tmp_path, plain))
        == "layercache extract --model vit_tiny --dataset shapes"
    )
    other = replace(
        plain,
        model="my model",
        layers=(1, 5),
        tokens=("cls", "ap", "grid:1/0", "patch/0", "patch/1"),
        tap="block",
        projected=True,
        precision="bf16",
        storage_dtype="float32",
        dataset=replace(plain.dataset, limit=100, limit_seed=3),
    )
    text = (
        "layercache extract --model 'my model' --dataset shapes --limit 100 --seed 3 --tap block "
        "--layers 1,5 --tokens cls+ap+grid:1+patch "
        f"--precision bf16 --storage-dtype float32 --cache {tmp_path} --projected"
    )
    made = Cache(cache_folder(tmp_path, other), other)
    assert extract_command(made) == text
    changed = extract_command(made, layers="last", tokens="all", model="MODEL")
    assert changed == text.replace("'my model'", "MODEL").replace("1,5", "last").replace(
        "cls+ap+grid:1+patch", "all"
    )


def test_open_cache_of_schema_1_says_to_extract_it_again(tmp_path: Path) -> None:
    folder = make_schema_1_cache(tmp_path, make_spec())
    for options in ({"path": folder}, {"root": tmp_path}, {"root": tmp_path, "model": "vit_tiny"}):
        with pytest.raises(CacheSchemaError) as caught:
            open_cache(**options)
        assert str(caught.value) == (
            f"{folder}: expected a cache of schema 3, got schema 1: extract it again (layercache "
            "extract --model vit_tiny --dataset shapes, "
            "with the other options it was made with) and delete this folder"
        )
    with pytest.raises(CacheSchemaError):
        verify(folder)


def test_open_cache_of_a_later_schema_says_to_upgrade(tmp_path: Path) -> None:
    fields = {**make_spec().to_json(), "schema": 4}
    fingerprint = sha256_json({key: value for key, value in fields.items() if key != "model"})
    (tmp_path / "spec.json").write_text(json.dumps({"fingerprint": fingerprint, **fields}))
    with pytest.raises(CacheSchemaError, match=r"got schema 4: upgrade layercache$"):
        open_cache(tmp_path)


def test_open_cache_with_a_flipped_schema_is_corrupt(tmp_path: Path) -> None:
    file = make_cache(tmp_path, make_spec()).path / "spec.json"
    file.write_text(file.read_text().replace('"schema": 3', '"schema": 4'))
    with pytest.raises(CacheCorruptError, match="expected fingerprint"):
        open_cache(file.parent)


def test_find_caches_with_one_of_schema_1_returns_the_others_and_logs_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = make_cache(tmp_path, make_spec())
    outdated = make_schema_1_cache(tmp_path, make_spec(tap="block"))
    assert [c.path for c in find_caches(tmp_path)] == [cache.path]
    assert open_cache(root=tmp_path).path == cache.path
    for message in caplog.messages:
        assert message.startswith(f"skipped {outdated}: expected a cache of schema 3, got schema 1")
    assert len(caplog.messages) == 2


def test_extract_command_has_the_recorded_origin(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, make_spec(layers=tuple(range(1, 13))))
    origin = Origin(
        dataset="csv:/my data/shapes.csv",
        weights="/w.pt",
        paper_compat=True,
        preprocessing={"input_size": [32, 24], "crop_pct": 0.9, "mean": [0.5, 0.25, 0.0]},
        on_error="skip",
        compressor="zstd:3",
    )
    record_origin(cache.path, origin)
    assert extract_command(open_cache(cache.path)) == (
        "layercache extract --model vit_tiny --weights /w.pt --dataset 'csv:/my data/shapes.csv' "
        "--crop-pct 0.9 --input-size 32x24 --mean 0.5,0.25,0.0 --compressor zstd:3 --on-error skip "
        f"--cache {tmp_path} --paper-compat"
    )
    assert "--weights" not in extract_command(open_cache(cache.path), model="MODEL")


def test_extract_advice_without_a_recorded_source_says_what_it_lacks(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, make_spec())
    lacking = "(with the source of the dataset and the other options it was begun with)"
    assert extract_advice(cache) == f"{extract_command(cache)} {lacking}"
    record_origin(cache.path, Origin(dataset="folder:/my/shapes"))
    assert extract_advice(open_cache(cache.path)) == extract_command(open_cache(cache.path))
