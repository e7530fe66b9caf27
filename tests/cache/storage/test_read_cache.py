"""What is kept of remote objects on the local disk."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.cache.storage.read_cache import Spool
from tests.cache.making import folder_in_memory

OBJECT = bytes(range(256)) * 4


def read(spool: Spool, name: str, start: int, length: int) -> bytes | None:
    """In two buffers, or None if it is not there."""
    buffers = [np.empty(length // 2, np.uint8), np.empty(length - length // 2, np.uint8)]
    return (
        b"".join(b.tobytes() for b in buffers)
        if spool.read_into(name, start, buffers, length)
        else None
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1000), st.integers(1, 24)), max_size=40))
def test_what_comes_back_is_what_was_kept_and_nothing_else(
    steps: list[tuple[bool, int, int]],
) -> None:
    there: set[int] = set()
    with folder_in_memory() as folder:
        spool = Spool(budget=10**6, parent=folder)
        for keep, start, length in steps:
            wanted = set(range(start, start + length))
            if keep:
                spool.keep("a", start, memoryview(OBJECT[start : start + length]))
                there |= wanted
            else:
                assert read(spool, "a", start, length) == (
                    OBJECT[start : start + length] if wanted <= there else None
                )
            assert spool.used == len(there)
        spool.close()
        assert not list(folder.iterdir())


def test_a_changed_object_is_another(tmp_path: Path) -> None:
    spool = Spool(budget=100, parent=tmp_path)
    spool.keep(("a", "etag 1"), 0, memoryview(b"old"))
    assert read(spool, ("a", "etag 2"), 0, 3) is None  # type: ignore[arg-type]


def test_the_budget_is_kept_and_what_is_read_again_and_again_stays(tmp_path: Path) -> None:
    spool = Spool(budget=50, parent=tmp_path)
    kept: list[set[str]] = []
    for epoch in range(3):
        for name in np.random.default_rng(epoch).permutation(10):
            if read(spool, str(name), 0, 10) is None:
                spool.keep(str(name), 0, memoryview(OBJECT[:10]))
        assert spool.used == 50
        assert sum(f.stat().st_size for f in spool.folder.iterdir()) == 50
        kept.append({str(name) for name in range(10) if read(spool, str(name), 0, 10)})
    assert len(kept[0]) == 5
    assert kept[0] == kept[1] == kept[2]


def test_another_selection_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    spool = Spool(budget=50, parent=tmp_path)
    for name in "abcde":
        spool.keep(name, 0, memoryview(OBJECT[:10]))
    spool.keep("f", 0, memoryview(OBJECT[:10]))
    assert read(spool, "f", 0, 10) is None  # no room: nothing goes while it may be read again
    spool.turn()
    assert read(spool, "b", 0, 10) == OBJECT[:10]  # and so belongs to the new selection too
    for name in "fg":
        spool.keep(name, 0, memoryview(OBJECT[:10]))
    assert {name for name in "abcdefg" if read(spool, name, 0, 10)} == set("bdefg")
    assert spool.used == 50
    spool.keep("large", 0, memoryview(OBJECT[:60]))
    assert spool.used <= 50


def test_a_disk_that_refuses_is_told_once_and_what_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    spool = Spool(budget=50, parent=tmp_path, say=said.append)
    spool.keep("a", 0, memoryview(OBJECT[:10]))

    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full)
        spool.keep("b", 0, memoryview(OBJECT[:10]))
    spool.keep("c", 0, memoryview(OBJECT[:10]))
    (line,) = said
    assert (
        line
        == f"nothing more is kept in {spool.folder}: No space left on device; what is not there is read over the network"
    )
    assert [read(spool, name, 0, 10) is not None for name in "abc"] == [True, False, False]
    assert spool.used == 10


def test_threads_that_read_keep_and_evict_get_the_right_bytes(tmp_path: Path) -> None:
    spool = Spool(budget=300, parent=tmp_path)
    wrong: list[str] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(300):
            n, start = int(rng.integers(8)), int(rng.integers(0, 200))
            data = bytes([n]) * 20
            found = read(spool, str(n), start, 20)
            if found is None:
                spool.keep(str(n), start, memoryview(data))
            elif found != data:
                wrong.append(str(n))
            if rng.random() < 0.05:
                spool.turn()

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 0 <= spool.used <= 300


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_killed_process_leaves_nothing_for_long(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        spool = Spool(budget=50, parent=tmp_path)
        spool.keep("a", 0, memoryview(b"left behind"))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    (left,) = tmp_path.iterdir()
    mine = Spool(budget=50, parent=tmp_path)
    other = Spool(budget=50, parent=tmp_path)  # a living one is not swept
    assert sorted(tmp_path.iterdir()) == sorted([mine.folder, other.folder])
    assert left not in (mine.folder, other.folder)
