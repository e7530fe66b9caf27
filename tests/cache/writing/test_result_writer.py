"""Results of another stage: written, replaced, stopped at every step, swept."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from layercache.cache.format.cache_spec import sha256_json
from layercache.cache.format.result_folders import SCHEMA, FileDigest, read_file, read_record, seal
from layercache.cache.storage.base import FileInfo
from layercache.cache.storage.local import LocalStore
from layercache.cache.writing.result_writer import has_litter, sweep, write_result, write_state
from layercache.errors import CacheCorruptError
from tests.cache.folders import tree

OLD = {"head": b"old weights", "predictions": b"old logits"}
NEW = {"head": b"new weights", "predictions": b"new logits!"}
SPEC = {"name": "a"}


class StoppedError(Exception):
    """Stands for a kill."""


class StoppingStore(LocalStore):
    """A folder whose n-th change does not happen any more."""

    def __init__(self, root: Path, *, changes: int) -> None:
        super().__init__(root)
        self._left = changes

    def _count(self) -> None:
        if not self._left:
            raise StoppedError
        self._left -= 1

    def put(self, key: str, parts: Sequence[Any]) -> None:
        self._count()
        super().put(key, parts)

    def delete(self, key: str) -> None:
        self._count()
        super().delete(key)

    def remove_temporary(self) -> None:
        self._count()
        super().remove_temporary()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "probes" / sha256_json(SPEC)[:12]


def write(store: LocalStore, files: dict[str, bytes]) -> None:
    write_result(store, {"spec": SPEC, "fingerprint": "ab", "files are": str(files)}, files)


def stored(folder: Path) -> dict[str, bytes]:
    """The files of the complete result, which its record must fit."""
    store = LocalStore(folder)
    record = read_record(store)
    assert record is not None
    files = {name: read_file(store, name, digest) for name, digest in record.files.items()}
    assert record.values["files are"] == str(files)
    return files


def test_result_replaced_and_stopped_at_any_step_is_the_old_or_the_new_one(folder: Path) -> None:
    outcomes = []
    for changes in range(100):
        write(LocalStore(folder), OLD)
        write_state(LocalStore(folder), {"of": "the search for the new one"})
        try:
            write(StoppingStore(folder, changes=changes), NEW)
        except StoppedError:
            outcomes.append(stored(folder) == NEW)
        else:
            break
        assert stored(folder) in (OLD, NEW)
        sweep(LocalStore(folder))
        assert {key: data for key, data in tree(folder).items() if key != "probe.json"} == (
            NEW if outcomes[-1] else OLD
        )
        assert not has_litter(LocalStore(folder))
    assert stored(folder) == NEW
    assert outcomes == sorted(outcomes)
    assert {False, True} == set(outcomes), "the record is what decides"


def test_first_result_stopped_at_any_step_is_absent_or_complete(tmp_path: Path) -> None:
    for changes in range(100):
        folder = tmp_path / str(changes) / "probes" / sha256_json(SPEC)[:12]
        try:
            write(StoppingStore(folder, changes=changes), NEW)
        except StoppedError:
            if read_record(LocalStore(folder)) is None:
                continue
            assert stored(folder) == NEW
        else:
            assert changes > 2
            return


def test_sweep_stopped_at_any_step_goes_on(folder: Path) -> None:
    write(LocalStore(folder), OLD)
    with pytest.raises(StoppedError):
        write(StoppingStore(folder, changes=3), NEW)  # two files and the record
    for changes in range(100):
        try:
            sweep(StoppingStore(folder, changes=changes))
        except StoppedError:
            assert stored(folder) == NEW
        else:
            break
    assert set(tree(folder)) == {"probe.json", *NEW}


def test_read_record_refuses_names_that_lead_elsewhere(folder: Path) -> None:
    store = LocalStore(folder)
    for name in ("../x", "/etc/passwd", "a/b", "probe.json", ".lock", "..", "a\n"):
        files = {name: vars(FileDigest.of(b""))}
        record = {"schema": SCHEMA, "spec": SPEC, "fingerprint": "ab", "files": files}
        store.put("probe.json", [seal(record)])
        with pytest.raises(CacheCorruptError, match="is not a record of a probe"):
            read_record(store)


def test_read_record_of_another_folder_or_cache_names_it(folder: Path) -> None:
    write(LocalStore(folder), OLD)
    assert read_record(LocalStore(folder), fingerprint="ab") is not None
    with pytest.raises(CacheCorruptError, match=r"belongs to another cache \(ab\)"):
        read_record(LocalStore(folder), fingerprint="cd")
    moved = folder.with_name("0123456789ab")
    folder.rename(moved)
    with pytest.raises(CacheCorruptError, match=f"belongs to probe {folder.name}: remove"):
        read_record(LocalStore(moved))
    copy = folder.parents[1] / "a copy of mine"
    moved.rename(copy)
    assert read_record(LocalStore(copy)) is not None


def test_read_file_compares_the_size_before_it_reads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(LocalStore(folder), OLD)
    monkeypatch.setattr(LocalStore, "stat", lambda self, key: FileInfo(2**34))
    monkeypatch.setattr(LocalStore, "read", lambda self, key: pytest.fail("too large to be read"))
    with pytest.raises(CacheCorruptError, match=r"head: has 17179869184 bytes, expected 11"):
        read_file(LocalStore(folder), "head", FileDigest.of(OLD["head"]))


def test_remove_temporary_leaves_files_of_processes_that_run(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    partial = tmp_path / "partial"
    partial.mkdir()
    host = socket.gethostname()
    names = {f"{host}-{os.getppid()}-0", f"{host}-{2**22 + 1}-0", f"{host}-{os.getpid()}-7", "x"}
    for name in names:
        (partial / name).write_bytes(b"?")
    store.remove_temporary()
    assert [p.name for p in partial.iterdir()] == [f"{host}-{os.getppid()}-0"]
