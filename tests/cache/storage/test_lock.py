"""Lock files of a cache that comes from elsewhere: links, pipes, files with other contents."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from layercache.cache.storage.lock import file_lock
from layercache.errors import CacheBusyError, CacheCorruptError

PRECIOUS = b"precious\n"


def _link(lock: Path, target: Path) -> None:
    lock.symlink_to(target)


def _hard_link(lock: Path, target: Path) -> None:
    os.link(target, lock)


def _dangling(lock: Path, target: Path) -> None:
    lock.symlink_to(target.parent / "new")


def _pipe(lock: Path, target: Path) -> None:
    os.mkfifo(lock)


def _device(lock: Path, target: Path) -> None:
    lock.symlink_to("/dev/zero")


def _folder(lock: Path, target: Path) -> None:
    lock.mkdir()


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("plant", [_link, _hard_link, _dangling, _pipe, _device, _folder])
def test_file_lock_at_no_lock_file_is_refused_and_changes_nothing(
    tmp_path: Path, plant: Callable[[Path, Path], None], wait: bool
) -> None:
    target, lock = tmp_path / "target", tmp_path / "commits" / "train.lock"
    target.write_bytes(PRECIOUS)
    lock.parent.mkdir()
    plant(lock, target)
    with (
        pytest.raises(CacheCorruptError, match=r"train\.lock: expected .*, got .*: (re)?move it"),
        file_lock(lock, wait=wait),
    ):
        pass
    assert target.read_bytes() == PRECIOUS
    assert not (tmp_path / "new").exists()


def test_file_lock_after_the_planted_file_was_removed_works(tmp_path: Path) -> None:
    lock = tmp_path / "train.lock"
    lock.symlink_to(tmp_path / "target")
    lock.unlink()  # the remedy of the message
    with file_lock(lock):
        assert lock.read_bytes().startswith(b"process ")
    assert lock.read_bytes() == b""


def test_file_lock_left_by_a_killed_process_is_taken(tmp_path: Path) -> None:
    lock = tmp_path / "train.lock"
    lock.write_text("process 123 on node-7.cluster")
    with file_lock(lock):
        assert lock.read_text() == f"process {os.getpid()} on {os.uname().nodename}"


def test_file_lock_held_names_the_holder_only_if_it_wrote_its_name(tmp_path: Path) -> None:
    lock = tmp_path / "train.lock"
    with file_lock(lock):
        with pytest.raises(CacheBusyError, match=f"process {os.getpid()} on"), file_lock(lock):
            pass
        lock.write_text("process 1 on x\nerror: all is lost")
        with pytest.raises(CacheBusyError, match=r"lock: another process is"), file_lock(lock):
            pass
