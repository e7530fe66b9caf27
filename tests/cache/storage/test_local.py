from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache.format.layout import SplitLayout
from layercache.cache.storage import local
from layercache.cache.storage.local import LocalStore
from layercache.cache.writing.locked_commit import LockedCommit
from layercache.errors import CacheCorruptError, StorageError
from layercache.testing import make_spec
from tests.cache.folders import folder_in_memory, tree


@given(st.lists(st.binary(max_size=50), max_size=1200), st.data())
def test_put_of_parts_reads_back_whole_and_in_ranges(
    parts: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(parts)
    with folder_in_memory() as folder:
        store = LocalStore(folder)
        store.put("a/b", parts)
        assert store.read("a/b") == whole
        assert store.stat("a/b").size == len(whole)
        start = data.draw(st.integers(0, len(whole)))
        sizes = data.draw(st.lists(st.integers(0, 20), max_size=600))
        buffers = [np.empty(n, np.uint8) for n in sizes]
        with store.open("a/b") as file:
            if start + sum(sizes) <= len(whole):
                file.read_into(start, buffers)
                assert b"".join(b.tobytes() for b in buffers) == whole[start : start + sum(sizes)]
            else:
                with pytest.raises(EOFError, match=f"ends at byte {len(whole)}"):
                    file.read_into(start, buffers)


def test_read_into_without_preadv_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from layercache.cache.storage import local_file

    monkeypatch.setattr(local_file, "_preadv", local_file._pread_one)
    test_put_of_parts_reads_back_whole_and_in_ranges()


def test_create_of_an_existing_key_returns_false_and_keeps_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert store.create("a/b", [b"1"])
    assert not store.create("a/b", [b"2"])
    assert store.read("a/b") == b"1"
    store.remove_temporary()
    assert tree(tmp_path) == {"a/b": b"1"}


def test_create_without_hard_links_behaves_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    test_create_of_an_existing_key_returns_false_and_keeps_it(tmp_path)


def test_lists_and_stat_return_sizes_times_and_folders(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for key in ("b/y", "a/x/1", "a/x/2", "c"):
        store.put(key, [key.encode()])
    assert {key: entry.size for key, entry in store.list_files(".").items()} == {
        "a/x/1": 5,
        "a/x/2": 5,
        "b/y": 3,
        "c": 1,
    }
    assert list(store.list_files("a")) == ["a/x/1", "a/x/2"]
    assert store.list_dirs(".") == ["a", "b", "partial"]
    assert store.list_dirs("c") == store.list_dirs("none") == []
    assert (store.has_dir("a/x"), store.has_dir("a/x/1")) == (True, False)
    assert store.read_many(["c", "none", "a/x/1", "c/below"]) == {"c": b"c", "a/x/1": b"a/x/1"}
    assert store.stat("b/y").size == 3
    assert store.stat("b/y").modified == (tmp_path / "b" / "y").stat().st_mtime


def test_adopt_folder_moves_it_unless_the_key_exists(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    commit = LockedCommit(store, SplitLayout(make_spec(), "train"))
    for wanted in (True, False):
        with commit.scratch_folder() as scratch:
            (scratch / "new").mkdir()
            (scratch / "new" / "file").write_bytes(b"1")
            assert commit.adopt_folder(scratch / "new", "group") == wanted
    assert store.read("group/file") == b"1"


def test_calls_for_a_missing_key_return_nothing_or_raise(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert store.stat("a/b") is None
    assert store.list_files("a") == {}
    store.delete("a/b")
    for call in (store.read, store.open):
        with pytest.raises(FileNotFoundError):
            call("a/b")


def test_put_gives_files_the_usual_permissions(tmp_path: Path) -> None:
    LocalStore(tmp_path).put("a", [b"1"])
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_put_in_order_syncs_files_before_the_first_rename_and_folders_after_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "records").mkdir()
    (tmp_path / "partial").mkdir()
    done: list[tuple[str, str]] = []

    def name(fd: int) -> str:
        path = Path(os.readlink(f"/proc/self/fd/{fd}")).relative_to(tmp_path)
        return "a temporary file" if path.parts[0] == "partial" else str(path)

    def note(call: str, plain: Any) -> Any:
        def noting(first: Any, *rest: Any) -> Any:
            done.append(
                (
                    call,
                    name(first)
                    if isinstance(first, int)
                    else str(Path(rest[0]).relative_to(tmp_path)),
                )
            )
            return plain(first, *rest)

        return noting

    for call in ("writev", "fsync", "replace"):
        monkeypatch.setattr(os, call, note(call, getattr(os, call)))
    LocalStore(tmp_path).put_in_order({"shards/3": [b"shard"], "records/3": [b"record"]})
    assert done == [
        *[("writev", "a temporary file")] * 2,
        *[("fsync", "a temporary file")] * 2,
        ("replace", "shards/3"),
        ("replace", "records/3"),
        ("fsync", "shards"),
        ("fsync", "records"),
    ]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("call", ["writev", "fsync", "replace"])
def test_put_on_a_failing_disk_raises_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    store = LocalStore(tmp_path)
    store.put("a/old", [b"old"])

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        remedy = "Get write permission" if code == errno.EROFS else "Free some space"
        with pytest.raises(
            StorageError,
            match=rf"a/new: cannot be written: {os.strerror(code)}\. .* {remedy} .* "
            r"run the same command again",
        ):
            store.put("a/new", [b"new"])
    assert tree(tmp_path) == {"a/old": b"old"}


def test_put_with_another_error_passes_it_on(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a file, not a folder")
    with pytest.raises(OSError, match="a") as caught:
        LocalStore(tmp_path).put("a/b", [b"1"])
    assert not isinstance(caught.value, StorageError)


def test_put_next_to_a_planted_link_with_the_temporary_name_leaves_its_target(
    tmp_path: Path,
) -> None:
    serial = next(local._SERIAL) + 1
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    store = LocalStore(tmp_path / "cache")
    (tmp_path / "cache" / "partial").mkdir(parents=True)
    name = f"{os.uname().nodename}-{os.getpid()}-{serial}"
    (tmp_path / "cache" / "partial" / name).symlink_to(target)
    store.put("a", [b"new"])
    assert store.read("a") == b"new"
    assert target.read_bytes() == b"precious"


def test_put_over_a_link_replaces_the_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    store = LocalStore(tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a").symlink_to(target)
    store.put("a", [b"new"])
    assert not (tmp_path / "cache" / "a").is_symlink()
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize("device", [False, True])
def test_read_of_a_pipe_or_device_is_refused_at_once(tmp_path: Path, device: bool) -> None:
    if device:
        (tmp_path / "a").symlink_to("/dev/zero")
    else:
        os.mkfifo(tmp_path / "a")
    store = LocalStore(tmp_path)
    for read in (store.read, store.open):
        with pytest.raises(CacheCorruptError, match="a: expected a regular file, got a "):
            read("a")


def test_read_through_a_link_to_a_file_reads_it(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"shard")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    assert LocalStore(tmp_path).read("a") == b"shard"


@pytest.mark.parametrize("key", ["../x", "{0}/x", "a/../../x", "a//x", "", "a\0", "..", "a/."])
def test_local_store_with_a_key_outside_its_folder_refuses_it(tmp_path: Path, key: str) -> None:
    store, key = LocalStore(tmp_path / "cache"), key.format(tmp_path)
    (tmp_path / "x").write_bytes(b"precious")
    for call in (
        lambda: store.put(key, [b"new"]),
        lambda: store.create(key, [b"new"]),
        lambda: store.read(key),
        lambda: store.open(key),
        lambda: store.delete(key),
    ):
        with pytest.raises(CacheCorruptError, match="expected the key of a file below this folder"):
            call()
    assert (tmp_path / "x").read_bytes() == b"precious"


def test_read_of_a_sparse_json_file_of_absurd_size_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "spec.json").touch()
    os.truncate(tmp_path / "spec.json", 2**40)
    with pytest.raises(CacheCorruptError, match=r"spec\.json: expected at most 1073741824 bytes"):
        LocalStore(tmp_path).read("spec.json")
