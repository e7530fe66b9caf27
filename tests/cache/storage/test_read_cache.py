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

from layercache.cache.storage.read_cache import ReadCache
from tests.cache.folders import folder_in_memory

OBJECT = bytes(range(256)) * 4


def read(cache: ReadCache, name: str, start: int, length: int) -> bytes | None:
    """In two buffers, or None if it is not kept."""
    buffers = [np.empty(length // 2, np.uint8), np.empty(length - length // 2, np.uint8)]
    return b"".join(b.tobytes() for b in buffers) if cache.read_into(name, start, buffers) else None


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1000), st.integers(1, 24)), max_size=40))
def test_read_into_returns_what_was_kept_and_nothing_else(
    steps: list[tuple[bool, int, int]],
) -> None:
    kept_offsets: set[int] = set()
    with folder_in_memory() as folder:
        cache = ReadCache(budget=10**6, parent=folder)
        for keep, start, length in steps:
            wanted = set(range(start, start + length))
            if keep:
                cache.keep("a", start, [OBJECT[start : start + length]])
                kept_offsets |= wanted
            else:
                assert read(cache, "a", start, length) == (
                    OBJECT[start : start + length] if wanted <= kept_offsets else None
                )
            assert cache.used == len(kept_offsets)
        cache.close()
        assert not list(folder.iterdir())


def test_read_into_of_a_changed_object_finds_nothing(tmp_path: Path) -> None:
    cache = ReadCache(budget=100, parent=tmp_path)
    cache.keep(("a", "etag 1"), 0, [b"old"])
    assert read(cache, ("a", "etag 2"), 0, 3) is None  # type: ignore[arg-type]


def test_keep_within_the_budget_keeps_the_same_part_every_epoch(tmp_path: Path) -> None:
    cache = ReadCache(budget=50, parent=tmp_path)
    kept: list[set[str]] = []
    for epoch in range(3):
        for name in np.random.default_rng(epoch).permutation(10):
            if read(cache, str(name), 0, 10) is None:
                cache.keep(str(name), 0, [OBJECT[:10]])
        assert cache.used == 50
        assert sum(f.stat().st_size for f in cache.folder.iterdir()) == 50
        kept.append({str(name) for name in range(10) if read(cache, str(name), 0, 10)})
    assert len(kept[0]) == 5
    assert kept[0] == kept[1] == kept[2]


def test_new_generation_lets_a_new_selection_evict_the_old(tmp_path: Path) -> None:
    cache = ReadCache(budget=50, parent=tmp_path)
    for name in "abcde":
        cache.keep(name, 0, [OBJECT[:10]])
    cache.keep("f", 0, [OBJECT[:10]])
    assert read(cache, "f", 0, 10) is None  # no room: nothing goes while it may be read again
    cache.new_generation()
    assert read(cache, "b", 0, 10) == OBJECT[:10]  # and so belongs to the new selection too
    for name in "fg":
        cache.keep(name, 0, [OBJECT[:10]])
    assert {name for name in "abcdefg" if read(cache, name, 0, 10)} == set("bdefg")
    assert cache.used == 50
    cache.keep("large", 0, [OBJECT[:60]])
    assert cache.used <= 50


def test_keep_on_a_full_disk_warns_once_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ReadCache(budget=50, parent=tmp_path)
    cache.keep("a", 0, [OBJECT[:10]])

    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full)
        cache.keep("b", 0, [OBJECT[:10]])
    cache.keep("c", 0, [OBJECT[:10]])
    (line,) = caplog.messages
    assert line == (
        f"nothing more is kept in {cache.folder}: No space left on device; the rest is read over "
        "the network"
    )
    assert [read(cache, name, 0, 10) is not None for name in "abc"] == [True, False, False]
    assert cache.used == 10


def test_read_cache_used_by_many_threads_returns_the_right_bytes(tmp_path: Path) -> None:
    cache = ReadCache(budget=300, parent=tmp_path)
    wrong: list[str] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(300):
            n, start = int(rng.integers(8)), int(rng.integers(0, 200))
            data = bytes([n]) * 20
            found = read(cache, str(n), start, 20)
            if found is None:
                cache.keep(str(n), start, [data])
            elif found != data:
                wrong.append(str(n))
            if rng.random() < 0.05:
                cache.new_generation()

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 0 <= cache.used <= 300


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_read_cache_removes_the_folder_of_a_killed_process(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        cache = ReadCache(budget=50, parent=tmp_path)
        cache.keep("a", 0, [b"left behind"])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    (left,) = tmp_path.iterdir()
    cache = ReadCache(budget=50, parent=tmp_path)
    other = ReadCache(budget=50, parent=tmp_path)  # a living one is not swept
    assert sorted(tmp_path.iterdir()) == sorted([cache.folder, other.folder])
    assert left not in (cache.folder, other.folder)
