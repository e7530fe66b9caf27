"""kill -9 at any moment, then the same call continues and ends with the same bytes; locks."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layercache.cache import CacheSpec
from layercache.cache.format import layout
from layercache.cache.format.layout import SplitLayout
from layercache.errors import CacheBusyError
from layercache.testing import make_spec, make_tokens, make_writer, write_pending
from tests.cache.folders import folder_in_memory, tree

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

SPEC = make_spec(50)
CALLS = (
    "fsync",
    "writev",
    "write",
    "replace",
    "rename",
    "link",
    "unlink",
    "mkdir",
    "ftruncate",
    "pwrite",
)
"""Every call of `os` by which the writer changes the disk."""
CALLS_OF_A_RUN = 201
"""Of `extract` below; a few more or less, with another release of zarr."""


def extract(root: Path, spec: CacheSpec = SPEC) -> None:
    with make_writer(root, spec) as writer:
        write_pending(writer, make_tokens(spec), skipped={9: "truncated"})
        writer.finish()


def in_child(work: Callable[[], Any]) -> int:
    """Run in a forked process; its wait status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def killed_at(point: int, work: Callable[[], Any]) -> bool:
    """Run `work` in a process that is killed just before its `point`-th call that changes the disk.

    A write is first done by half.
    """

    def child() -> None:
        left = point

        def wrap(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                if left == 0:
                    if name == "writev":
                        data = b"".join(bytes(part) for part in args[1])
                        os.pwrite.__wrapped__(args[0], data[: len(data) // 2], 0)  # type: ignore[attr-defined]
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return call(*args, **kwargs)

            wrapped.__wrapped__ = call  # type: ignore[attr-defined]
            return wrapped

        for name in CALLS:
            setattr(os, name, wrap(name, getattr(os, name)))
        work()

    status = in_child(child)
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status != 0


@pytest.fixture
def undisturbed(small_blocks: int) -> dict[str, bytes]:
    with folder_in_memory() as folder:
        extract(folder)
        return tree(folder)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_writer_killed_at_some_calls_continues_to_the_same_bytes(
    data: st.DataObject, undisturbed: dict[str, bytes]
) -> None:
    kills = data.draw(st.lists(st.integers(0, CALLS_OF_A_RUN - 1), min_size=1, max_size=3))
    with folder_in_memory() as folder:
        for point in kills:
            killed_at(point, lambda: extract(folder))
        extract(folder)
        assert tree(folder) == undisturbed


@pytest.mark.slow
def test_writer_killed_at_every_call_continues_to_the_same_bytes(
    undisturbed: dict[str, bytes],
) -> None:
    for point in range(CALLS_OF_A_RUN):
        with folder_in_memory() as folder:
            killed_at(point, lambda folder=folder: extract(folder))  # type: ignore[misc]
            extract(folder)
            assert tree(folder) == undisturbed, point


def test_kills_reach_from_the_first_call_nearly_to_the_last(small_blocks: int) -> None:
    with folder_in_memory() as folder:
        assert killed_at(CALLS_OF_A_RUN * 3 // 4, lambda: extract(folder))
    with folder_in_memory() as folder:
        assert not killed_at(CALLS_OF_A_RUN * 5 // 4, lambda: extract(folder))


def test_writer_after_a_kill_does_not_write_committed_blocks_again(small_blocks: int) -> None:
    with folder_in_memory() as folder:
        lay = SplitLayout(SPEC, "train")

        def three_and_a_half() -> None:
            writer = make_writer(folder, SPEC)
            write_pending(writer, make_tokens(SPEC), stop_after=3)
            os.kill(os.getpid(), signal.SIGKILL)

        in_child(three_and_a_half)
        with make_writer(folder, SPEC) as writer:
            assert writer.pending == (3, 4, 5, 6)
            before = {b: (writer.path / lay.shard(b)).stat().st_mtime_ns for b in range(3)}
            write_pending(writer, make_tokens(SPEC))
            writer.finish()
            assert {b: (writer.path / lay.shard(b)).stat().st_mtime_ns for b in range(3)} == before


def test_second_writer_raises_naming_the_holder(tmp_path: Path) -> None:
    with make_writer(tmp_path, SPEC):
        with pytest.raises(
            CacheBusyError,
            match=rf"commits/train\.lock: process {os.getpid()} on \S+ is writing this split; "
            r"wait for it to end",
        ):
            make_writer(tmp_path, SPEC)
        make_writer(tmp_path, SPEC, "test").close()  # another split is free
    make_writer(tmp_path, SPEC).close()


def test_second_writer_that_waits_continues(tmp_path: Path) -> None:
    first = make_writer(tmp_path, SPEC)
    done: list[float] = []

    def second() -> None:
        with make_writer(tmp_path, SPEC, wait=True) as writer:
            done.append(time.monotonic())
            assert writer.complete

    thread = threading.Thread(target=second)
    thread.start()
    write_pending(first, make_tokens(SPEC))
    first.finish()
    time.sleep(0.3)
    assert not done
    first.close()
    thread.join(timeout=10)
    assert done


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    def hold() -> None:
        make_writer(tmp_path, SPEC)
        os.kill(os.getpid(), signal.SIGKILL)

    in_child(hold)
    make_writer(tmp_path, SPEC).close()


def test_lock_of_a_killed_parent_is_not_kept_by_its_forked_worker(tmp_path: Path) -> None:
    read, write = os.pipe()

    def hold() -> None:
        make_writer(tmp_path, SPEC)
        if os.fork() == 0:  # a data loader's worker, which lives on for a while
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    in_child(hold)
    try:
        make_writer(tmp_path, SPEC).close()
    finally:
        os.close(write)
        os.close(read)


def test_two_writers_of_one_split_end_with_one_whole_cache(
    undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    def patient() -> None:
        with make_writer(tmp_path, SPEC, wait=True) as writer:
            write_pending(writer, make_tokens(SPEC), skipped={9: "truncated"})
            writer.finish()

    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(in_child(patient))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert statuses == [0, 0, 0]
    assert tree(tmp_path) == undisturbed
    assert layout.MAX_SHARD_BYTES == 1024
