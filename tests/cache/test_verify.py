from __future__ import annotations

import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.cache import Cache, open_cache
from layercache.cache.format import layout
from layercache.cache.format.layout import SplitLayout
from layercache.cache.remove import remove
from layercache.cache.storage.local import LocalStore
from layercache.cache.verify import Corruption, verify
from layercache.cache.writing.result_writer import write_state
from layercache.errors import CacheNotFoundError
from layercache.testing import make_cache, make_spec, make_tokens, make_writer, write_pending
from tests.cache.folders import PROBE, folder_in_memory, tree, write_probe


@pytest.fixture(scope="module", params=[None, "zstd"])
def cache(request: pytest.FixtureRequest) -> Any:
    with folder_in_memory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "MAX_SHARD_BYTES", 1024)
        yield make_cache(
            folder,
            make_spec(30),
            splits=("train", "test"),
            skipped={9: "truncated"},
            compressor=request.param,
        )


def faulty_files(cache: Cache) -> set[str]:
    return {fault.path.relative_to(cache.path).as_posix() for fault in verify(cache.path)}


def test_verify_of_a_whole_cache_returns_nothing(cache: Cache) -> None:
    seen: list[int] = []
    assert verify(cache, progress=seen.append) == []
    assert sum(seen) == sum(
        len(data) for name, data in tree(cache.path).items() if "/tokens/c." in name
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_verify_reports_every_changed_byte(cache: Cache, data: st.DataObject) -> None:
    files = {name: content for name, content in tree(cache.path).items() if content}
    name = data.draw(st.sampled_from(sorted(files)))
    offset = data.draw(st.integers(0, len(files[name]) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = bytearray(files[name])
    changed[offset] ^= flip
    (cache.path / name).write_bytes(changed)
    try:
        assert name in faulty_files(cache)
    finally:
        (cache.path / name).write_bytes(files[name])


def test_verify_reports_changed_bytes_of_records_and_metadata(cache: Cache) -> None:
    for name in (
        "spec.json",
        "commits/train/complete.json",
        "commits/train/00000001.json",
        "train.zarr/zarr.json",
    ):
        content = (cache.path / name).read_bytes()
        for offset in range(0, len(content), 29):
            (cache.path / name).write_bytes(
                content[:offset] + bytes([content[offset] ^ 32]) + content[offset + 1 :]
            )
            assert name in faulty_files(cache), (name, offset)
        (cache.path / name).write_bytes(content)


def test_verify_reports_missing_cut_and_lengthened_files(cache: Cache) -> None:
    for name, content in tree(cache.path).items():
        if name.endswith(".lock"):
            continue
        file = cache.path / name
        for damaged in (content[:-1], b"", content + b"\n"):
            file.write_bytes(damaged)
            assert name in faulty_files(cache), (name, len(damaged), len(content))
        file.unlink()
        if name == "spec.json":
            with pytest.raises(CacheNotFoundError):
                verify(cache.path)
        else:
            assert name in faulty_files(cache), name
        file.write_bytes(content)
    assert verify(cache) == []


def test_verify_reports_an_unknown_file(cache: Cache) -> None:
    for name in (
        "train.zarr/tokens/c.0.0.99.0",
        "train.zarr/surplus",
        "commits/train/00000099.json",
    ):
        file = cache.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"?")
        assert verify(cache) == [Corruption(file, "does not belong here")]
        file.unlink()


def test_verify_reports_an_incomplete_split(tmp_path: Path, small_blocks: int) -> None:
    spec = make_spec(30)
    with make_writer(tmp_path, spec) as writer:
        write_pending(writer, make_tokens(spec), stop_after=2)
    cache = open_cache(writer.path)
    lay = SplitLayout(spec, "train")
    (fault,) = verify(cache)
    assert fault.path == cache.path / lay.complete
    assert fault.problem.startswith(
        "incomplete: 2 of 4 row blocks; continue with: layercache extract --model vit_tiny "
        "--dataset shapes"
    )
    shard = cache.path / lay.shard(1)
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    record = cache.path / lay.record(0)
    record.write_bytes(record.read_bytes().replace(b"bytes", b"bites"))
    assert [f.path for f in verify(cache)] == sorted([fault.path, shard, record])


def test_verify_of_a_copied_folder_returns_nothing(cache: Cache, tmp_path: Path) -> None:
    copy = tmp_path / "by another name"
    shutil.copytree(cache.path, copy)
    assert verify(copy) == []
    assert open_cache(copy).spec == cache.spec
    remove(open_cache(copy))
    assert tmp_path.exists()


def test_verify_reports_a_pipe_in_the_place_of_a_file_at_once(cache: Cache) -> None:
    layout = SplitLayout(cache.spec, "train")
    for key in (layout.id, layout.shard(0), layout.record(1), layout.valid):
        file = cache.path / key
        data = file.read_bytes()
        file.unlink()
        os.mkfifo(file)
        problems = [(c.path, c.problem) for c in verify(cache)]
        assert (file, "is a pipe or device, expected a regular file") in problems
        file.unlink()
        file.write_bytes(data)
    assert verify(cache) == []


def test_verify_reports_damaged_files_of_probes_and_their_training(cache: Cache) -> None:
    write_probe(cache)
    folder = Path(str(cache.path)) / PROBE
    unfinished = folder.with_name("0123456789ab")
    write_state(LocalStore(unfinished), {"scores": []})
    rest = b"what a pass needs to go on"
    (unfinished / "training").mkdir()
    (unfinished / "training" / "aa").write_bytes(sha256(rest).hexdigest().encode() + rest)
    assert verify(cache) == []
    for file in (
        folder / "head.safetensors",
        folder / "probe.json",
        unfinished / "search.json",
        unfinished / "training" / "aa",
    ):
        data = file.read_bytes()
        for damaged in (data[:-3] + b"???", data[:-5], b"", data + b"?"):
            file.write_bytes(damaged)
            assert [c.path for c in verify(cache)] == [file]
            assert verify(cache)[0].probe
        file.write_bytes(data)
    (folder / "notes.txt").write_text("?")
    assert [c.problem for c in verify(cache)] == ["does not belong here"]
    (folder / "notes.txt").unlink()
    (folder / "probe.json").unlink()
    (missing,) = verify(cache)
    assert (missing.path, missing.exists) == (folder / "probe.json", False)
    shutil.rmtree(folder.parent)
