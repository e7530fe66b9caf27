"""SplitWriter: what is pending, how a stopped or damaged split continues, and its options."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from layercache.cache import SplitWriter, cache_folder, open_cache
from layercache.cache.format.layout import SplitLayout
from layercache.errors import CacheCorruptError, CacheIncompleteError, OptionError
from layercache.testing import (
    make_cache,
    make_ids,
    make_spec,
    make_tokens,
    make_writer,
    write_pending,
)
from tests.cache.folders import tree

PAIRS = [(6, "cls"), (6, "ap"), (12, "cls"), (12, "ap")]


@pytest.fixture(autouse=True)
def _blocks_of_eight_rows(small_blocks: int) -> None:
    pass


def test_pending_lists_blocks_until_they_are_written(tmp_path: Path) -> None:
    spec = make_spec(50)
    tokens = make_tokens(spec)
    with make_writer(tmp_path, spec) as writer:
        assert (writer.rows, writer.block_rows, writer.pending) == (50, 8, (0, 1, 2, 3, 4, 5, 6))
        writer.write(3, tokens[:, :, 24:32])
        assert writer.pending == (0, 1, 2, 4, 5, 6)
        with pytest.raises(
            CacheIncompleteError, match=r"split 'train' has 6 of 7 row blocks still to write"
        ):
            writer.finish()
        write_pending(writer, tokens)
        assert not writer.complete
        writer.finish()
        assert writer.complete
        writer.finish()


def test_writer_of_a_complete_split_changes_nothing(tmp_path: Path) -> None:
    spec = make_spec(50)
    cache = make_cache(tmp_path, spec, labelled=False)
    before = {
        p: p.stat().st_mtime_ns
        for p in cache.path.rglob("*")
        if p.is_file() and p.suffix != ".lock"
    }
    with make_writer(tmp_path, spec) as writer:
        assert writer.complete
        assert writer.pending == ()
        writer.finish()
    assert {
        p: p.stat().st_mtime_ns
        for p in cache.path.rglob("*")
        if p.is_file() and p.suffix != ".lock"
    } == before


def test_writer_that_was_stopped_continues_to_the_same_bytes(tmp_path: Path) -> None:
    spec = make_spec(50)
    tokens = make_tokens(spec)
    undisturbed = tree(make_cache(tmp_path / "a", spec, labelled=False).path)
    for blocks in (2, 3):
        with make_writer(tmp_path / "b", spec) as writer:
            write_pending(writer, tokens, stop_after=blocks)
    with make_writer(tmp_path / "b", spec) as writer:
        assert writer.pending == (5, 6)
        write_pending(writer, tokens)
        writer.finish()
    assert tree(writer.path) == undisturbed


def test_write_from_several_threads_in_any_order_ends_with_the_same_bytes(tmp_path: Path) -> None:
    spec = make_spec(50)
    tokens = make_tokens(spec)
    with make_writer(tmp_path / "b", spec) as writer, ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda b: writer.write(b, tokens[:, :, 8 * b : 8 * b + 8]), reversed(writer.pending)
            )
        )
        writer.finish()
    assert tree(writer.path) == tree(make_cache(tmp_path / "a", spec, labelled=False).path)


@pytest.mark.parametrize(
    "damage",
    [
        "cut",
        "gone",
        "record cut",
        "record gone",
        "record of another",
        "id",
        "metadata",
        "coordinates",
        "valid",
        "complete",
    ],
)
def test_writer_of_a_damaged_split_writes_the_damage_again(tmp_path: Path, damage: str) -> None:
    spec = make_spec(50)
    cache = make_cache(tmp_path, spec, labelled=False)
    whole = tree(cache.path)
    lay = SplitLayout(spec, "train")
    file = (
        cache.path
        / {
            "cut": lay.shard(2),
            "gone": lay.shard(2),
            "record cut": lay.record(2),
            "record gone": lay.record(2),
            "record of another": lay.record(2),
            "id": f"{lay.group}/id/c/0",
            "metadata": f"{lay.group}/zarr.json",
            "coordinates": f"{lay.group}/layer/c/0",
            "valid": f"{lay.group}/valid/c/0",
            "complete": lay.complete,
        }[damage]
    )
    if "gone" in damage:
        file.unlink()
    elif damage == "record of another":
        file.write_bytes((cache.path / lay.record(3)).read_bytes())
    else:
        file.write_bytes(file.read_bytes()[:-2])
    with make_writer(tmp_path, spec) as writer:
        assert not writer.complete
        assert writer.pending == (
            (2,)
            if damage in ("cut", "gone", "record cut", "record gone", "record of another")
            else ()
        )
        write_pending(writer, make_tokens(spec))
        writer.finish()
    assert tree(cache.path) == whole


def test_writer_removes_leftovers_of_a_killed_run(tmp_path: Path) -> None:
    spec = make_spec(50)
    path = cache_folder(tmp_path, spec)
    left = path / SplitLayout(spec, "train").partial / "4711-3"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a shard")
    other = path / SplitLayout(spec, "test").partial / "4712-0"
    other.parent.mkdir()
    other.write_bytes(b"of a writer that may be alive")
    with make_writer(tmp_path, spec):
        assert not left.exists()
    assert not left.parent.exists()
    assert other.exists()


def test_writer_with_other_ids_than_the_spec_raises(tmp_path: Path) -> None:
    spec = make_spec(50)
    ids = make_ids(50)
    with pytest.raises(OptionError, match=r"expected the 50 ids that .*, got 50 others"):
        SplitWriter(tmp_path, spec, "train", ids=ids[::-1])
    assert not any(tmp_path.iterdir())


def test_writer_of_a_split_without_samples_raises(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="split 'train' has no samples"):
        make_writer(tmp_path, make_spec(0))


def test_writer_in_a_folder_with_another_spec_raises(tmp_path: Path) -> None:
    spec = make_spec(50)
    cache = make_cache(tmp_path, spec, labelled=False)
    file = cache.path / "spec.json"
    file.write_text(file.read_text().replace("bicubic", "bilinear"))
    with pytest.raises(CacheCorruptError, match=r"spec\.json is not the spec of this extraction"):
        make_writer(tmp_path, spec)


@pytest.mark.parametrize("compressor", ["zstd", "zstd:7", "blosc", "blosc:9"])
def test_writer_with_another_compressor_than_it_was_begun_with_raises(
    tmp_path: Path, compressor: str
) -> None:
    spec = make_spec(50)
    tokens = make_tokens(spec)
    with make_writer(tmp_path, spec, compressor=compressor) as writer:
        write_pending(writer, tokens, stop_after=2)
    with pytest.raises(OptionError, match=rf"begun with compressor {compressor}.*, got none"):
        make_writer(tmp_path, spec)
    with make_writer(tmp_path, spec, compressor=compressor) as writer:
        assert writer.pending == (2, 3, 4, 5, 6)
        write_pending(writer, tokens)
        writer.finish()
    with make_writer(
        tmp_path, spec
    ) as writer:  # complete: there is nothing left that a compressor could matter for
        assert writer.complete
    np.testing.assert_array_equal(
        open_cache(writer.path).split("train").read(PAIRS), tokens.reshape(4, 50, 8)
    )


@pytest.mark.parametrize("compressor", ["gzip", "zstd:0", "zstd:23", "blosc:10", "zstd:x", " zstd"])
def test_writer_with_an_unknown_compressor_raises(tmp_path: Path, compressor: str) -> None:
    with pytest.raises(OptionError, match=f"compressor '{compressor}': "):
        make_writer(tmp_path, make_spec(50), compressor=compressor)


def test_discard_changed_makes_blocks_of_changed_rows_pending(tmp_path: Path) -> None:
    spec = make_spec(rows=40)
    tokens, stamps = make_tokens(spec), np.arange(40)
    with make_writer(tmp_path, spec) as writer:
        assert writer.discard_changed(stamps) == 0
        write_pending(writer, tokens, stop_after=3)
        committed, n = set(range(3)), writer.block_rows
    assert n * 4 < 40
    changed = stamps.copy()
    changed[[1, 3 * n]] += 1
    with make_writer(tmp_path, spec) as writer:
        assert writer.discard_changed(stamps) == 0
        assert not committed & set(writer.pending)
        assert writer.discard_changed(changed) == 1
        assert set(writer.pending) & committed == {0}
        write_pending(writer, tokens)
        writer.finish()
        assert writer.discard_changed(stamps) == 0, "complete"
    assert not list(tmp_path.rglob("*.stamps"))
