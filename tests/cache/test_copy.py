"""Copies between folders. Object storage and the Hub: tests/objects."""

from __future__ import annotations

import os
import re
import shutil
import socket
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from layercache import copy_cache
from layercache.cache import Cache, find_caches, open_cache
from layercache.cache.format.cache_spec import sha256_json
from layercache.cache.format.layout import SPEC_KEY, SplitLayout
from layercache.cache.format.origin import Origin
from layercache.cache.format.records import CompleteRecord
from layercache.cache.format.result_folders import read_file, read_record
from layercache.cache.origin_records import record_origin
from layercache.cache.storage.local import LocalStore
from layercache.cache.verify import verify
from layercache.cache.writing import result_writer
from layercache.cache.writing.result_writer import write_result
from layercache.errors import CacheBusyError, CacheCorruptError, CacheIncompleteError, OptionError
from layercache.testing import make_cache, make_spec, make_tokens, make_writer, write_pending
from tests.cache.folders import PROBE, tree, write_probe

SPEC = make_spec(50)


@pytest.fixture
def cache(tmp_path: Path, small_blocks: int) -> Cache:
    """Complete, with a probe, one that is being trained, and what belongs to nobody else."""
    made = make_cache(tmp_path / "from", SPEC, splits=("train", "test"), skipped={9: "truncated"})
    write_probe(made)
    store = LocalStore(made.path)
    for key in (f"{PROBE}/.lock", f"{PROBE}/search.json", "probes/bb/search.json"):
        store.put(key, [key.encode()])
    record_origin(made.path, Origin(dataset="folder:/my/shapes"))
    return open_cache(made.path)


def files(cache: Cache) -> dict[str, bytes]:
    """What a copy must have."""
    return {
        key: data
        for key, data in tree(Path(str(cache.path))).items()
        if not key.endswith((".lock", "search.json"))
    }


def test_copy_cache_copies_every_file_and_counts_it(cache: Cache, tmp_path: Path) -> None:
    done, totals = [], []
    transfer = copy_cache(cache, to=tmp_path / "to", progress=done.append, total=totals.append)
    copy = open_cache(root=tmp_path / "to")
    assert copy.path == transfer.path == tmp_path / "to" / cache.path.relative_to(tmp_path / "from")
    assert files(copy) == files(cache)
    assert verify(copy) == []
    assert (
        sum(done)
        == totals[0]
        == transfer.bytes
        == transfer.sent_bytes
        == sum(map(len, files(cache).values()))
    )
    assert transfer.files == transfer.sent_files == len(files(cache))


def test_copy_cache_again_sends_only_what_is_missing_or_wrong(cache: Cache, tmp_path: Path) -> None:
    copy = copy_cache(cache, to=tmp_path / "to")
    again = copy_cache(cache, to=str(tmp_path / "to"))
    assert (again.files, again.sent_files, again.sent_bytes) == (copy.files, 0, 0)
    lay = SplitLayout(SPEC, "train")
    shard = copy.path / lay.shard(2)
    shard.write_bytes(
        shard.read_bytes()[:-1] + b"?"
    )  # of the right length: only its checksum tells
    (copy.path / lay.record(4)).unlink()
    assert copy_cache(cache, to=tmp_path / "to").sent_files == 2
    assert verify(open_cache(copy.path)) == []


def test_copy_cache_stopped_anywhere_leaves_an_incomplete_cache_and_continues(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, n = len(files(cache)), 0
    put = LocalStore.put
    while True:
        left, seen = n, []

        def puts(
            self: LocalStore, key: str, parts: Any, left: int = left, seen: list[str] = seen
        ) -> None:
            if len(seen) == left:
                raise KeyboardInterrupt
            seen.append(key)
            put(self, key, parts)

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "put", puts)
            try:
                sent = copy_cache(cache, to=tmp_path / "to").sent_files
                break
            except KeyboardInterrupt:
                n += 3
        for copy in find_caches(tmp_path / "to"):
            for split in filter(copy.complete, ("train", "test")):
                assert [f for f in verify(copy) if split in str(f.path)] == []
    assert sent <= n < whole + 3
    assert files(open_cache(root=tmp_path / "to")) == files(cache)


def test_copy_cache_sends_markers_and_complete_records_last(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    put = LocalStore.put
    monkeypatch.setattr(
        LocalStore, "put", lambda self, key, parts: order.append(key) or put(self, key, parts)
    )
    copy_cache(cache, to=tmp_path / "to")
    assert order[0] == SPEC_KEY
    assert order[-1] == f"{PROBE}/probe.json"
    for lay in (SplitLayout(SPEC, "train"), SplitLayout(SPEC, "test")):
        split_keys = [key for key in order if key.startswith((f"{lay.group}/", f"{lay.commits}/"))]
        assert split_keys[-1] == lay.complete
        assert max(split_keys.index(lay.shard(b)) for b in range(lay.blocks)) < min(
            split_keys.index(lay.record(b)) for b in range(lay.blocks)
        )


def test_copy_cache_of_a_damaged_source_raises_and_completes_nothing(
    cache: Cache, tmp_path: Path
) -> None:
    lay = SplitLayout(SPEC, "train")
    shard = Path(str(cache.path)) / lay.shard(5)
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(
        CacheCorruptError, match=r"train\.zarr/tokens/c\.0\.0\.5\.0: differs from its record"
    ):
        copy_cache(cache, to=tmp_path / "to")
    assert not open_cache(root=tmp_path / "to").complete("train")


def test_copy_cache_of_an_incomplete_cache_raises(tmp_path: Path, small_blocks: int) -> None:
    with make_writer(tmp_path / "from", SPEC) as writer:
        write_pending(writer, make_tokens(SPEC), stop_after=2)
    with pytest.raises(
        CacheIncompleteError,
        match=r"split 'train' is incomplete \(2 of 7 row blocks\): "
        r"finish the extraction, then copy",
    ):
        copy_cache(writer.path, to=tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_copy_cache_to_the_source_another_cache_or_a_busy_one_raises(
    cache: Cache, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="the cache is there already"):
        copy_cache(cache, to=tmp_path / "from")
    with (
        make_writer(tmp_path / "busy", SPEC),
        pytest.raises(CacheBusyError, match="is writing this split"),
    ):
        copy_cache(cache, to=tmp_path / "busy")
    with make_writer(tmp_path / "begun", SPEC) as writer:
        write_pending(writer, make_tokens(SPEC, seed=1), stop_after=1)
    with pytest.raises(
        CacheBusyError, match="an extraction wrote row blocks there whose bytes are not those of"
    ):
        copy_cache(cache, to=tmp_path / "begun")
    copy = copy_cache(cache, to=tmp_path / "other").path
    (copy / SPEC_KEY).write_text("{}")
    with pytest.raises(OptionError, match="another cache is there"):
        copy_cache(cache, to=tmp_path / "other")


def test_copy_cache_continues_equal_blocks_of_an_extraction(cache: Cache, tmp_path: Path) -> None:
    with make_writer(tmp_path / "to", SPEC) as writer:
        write_pending(writer, make_tokens(SPEC), stop_after=1, skipped={9: "truncated"})
    done = copy_cache(cache, to=tmp_path / "to")
    assert done.files - done.sent_files > 10
    assert files(open_cache(done.path)) == files(cache)


@pytest.mark.parametrize("key", ["../../../../x", "/tmp/x", "train.zarr/../../../../../x"])
def test_copy_cache_with_a_record_that_names_files_elsewhere_writes_nothing_there(
    cache: Cache, tmp_path: Path, key: str
) -> None:
    layout = SplitLayout(SPEC, "train")
    secret = tmp_path / "x"
    secret.write_bytes(b"secret")
    file = Path(str(cache.path)) / layout.complete
    record = CompleteRecord.from_bytes(file.read_bytes(), where="")
    digests = {**record.files, key: sha256(b"secret").hexdigest()}
    file.write_bytes(replace(record, files=digests).to_bytes())
    with pytest.raises(CacheCorruptError, match=r"complete\.json: files: expected files of this"):
        copy_cache(cache, to=tmp_path / "to" / "deep")
    (problem,) = [c.problem for c in verify(cache) if c.path == file]
    assert "files: expected files of this split, got" in problem
    assert [p for p in tmp_path.rglob("x") if p != secret] == []


def test_copy_cache_with_a_pipe_among_its_files_raises_at_once(
    cache: Cache, tmp_path: Path
) -> None:
    layout = SplitLayout(SPEC, "train")
    for key in (layout.id, layout.shard(1), layout.record(1)):
        file = Path(str(cache.path)) / key
        data = file.read_bytes()
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(CacheCorruptError, match=f"{re.escape(key)}: expected a regular file"):
            copy_cache(cache, to=tmp_path / "to")
        file.unlink()
        file.write_bytes(data)


def write_three_probes(cache: Cache) -> list[Path]:
    """Replace the probe of a cache by three others; returns their folders."""
    folders = []
    for number in range(3):
        spec = {"number": number}
        folder = Path(str(cache.path)) / "probes" / sha256_json(spec)[:12]
        values = {"fingerprint": cache.spec.fingerprint, "spec": spec}
        write_result(LocalStore(folder), values, {"head": b"weights", "logits": b"numbers"})
        folders.append(folder)
    return folders


def test_copy_cache_leaves_out_damaged_probes_and_names_them(cache: Cache, tmp_path: Path) -> None:
    one, two, three = write_three_probes(cache)
    (one / "head").write_bytes(b"WEIGHTS")
    record = two / "probe.json"
    record.write_bytes(record.read_bytes().replace(b"number", b"nomber"))
    transfer = copy_cache(cache, to=tmp_path / "to")
    assert set(transfer.damaged_probes) == {one.name, two.name}
    assert (
        f"{one}/head: differs from its record; remove {one} and run the same"
        in (transfer.damaged_probes[one.name])
    )
    assert "does not match its own checksum" in transfer.damaged_probes[two.name]
    copied = {key for key in tree(transfer.path) if key.endswith("probe.json")}
    assert copied == {f"probes/{three.name}/probe.json", f"{PROBE}/probe.json"}
    assert [c for c in verify(open_cache(transfer.path)) if three.name in str(c.path)] == []
    for folder in (one, two):
        shutil.rmtree(folder)
    write_three_probes(cache)
    again = copy_cache(cache, to=tmp_path / "to")
    assert again.damaged_probes == {}
    assert verify(open_cache(again.path)) == []


@pytest.mark.parametrize("link", ["file", "folder", "probes"])
def test_copy_cache_follows_no_link_below_probes(cache: Cache, tmp_path: Path, link: str) -> None:
    one, *_ = write_three_probes(cache)
    secret = tmp_path / "secret"
    linked = {"file": one / "head", "folder": one, "probes": one.parent}[link]
    linked.rename(secret)
    linked.symlink_to(secret)
    (one / "notes.txt").symlink_to("/etc/hostname")
    transfer = copy_cache(cache, to=tmp_path / "to")
    name = "probes" if link == "probes" else one.name
    assert transfer.damaged_probes[name].startswith(f"{linked}: is a symbolic link")
    sent = tree(transfer.path)
    assert not any(key.startswith(f"probes/{one.name}/probe.json") for key in sent)
    assert not any("notes" in key for key in sent)
    if link == "probes":
        assert not any(key.startswith("probes/") for key in sent)


def test_copy_cache_in_the_middle_of_a_replacement_copies_a_whole_probe(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, *_ = write_three_probes(cache)
    values = {"fingerprint": cache.spec.fingerprint, "spec": {"number": 0}}
    with monkeypatch.context() as patch:
        patch.setattr(result_writer, "sweep", lambda store: None)  # killed before it
        write_result(LocalStore(one), values, {"head": b"new", "logits": b"newer"})
    transfer = copy_cache(cache, to=tmp_path / "to")
    assert transfer.damaged_probes == {}
    copy = LocalStore(transfer.path / "probes" / one.name)
    record = read_record(copy)
    assert record is not None
    assert {name: read_file(copy, name, d) for name, d in record.files.items()} == {
        "head": b"new",
        "logits": b"newer",
    }
    assert verify(open_cache(transfer.path)) == []


def test_copy_cache_removes_what_killed_copies_left(cache: Cache, tmp_path: Path) -> None:
    path = copy_cache(cache, to=tmp_path / "to").path
    (path / "partial").mkdir()
    (path / "partial" / f"{socket.gethostname()}-{2**22 + 1}-3").write_bytes(b"half")
    copy_cache(cache, to=tmp_path / "to")
    assert not (path / "partial").exists()
