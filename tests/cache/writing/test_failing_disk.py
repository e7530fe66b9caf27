"""SplitWriter on a disk that fails or is full."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from layercache.cache import cache_folder
from layercache.cache.format.layout import SplitLayout
from layercache.errors import StorageError
from layercache.testing import make_cache, make_spec, make_tokens, make_writer, write_pending
from tests.cache.folders import tree


@pytest.fixture(autouse=True)
def _blocks_of_eight_rows(small_blocks: int) -> None:
    pass


@contextmanager
def files_of_at_most(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_write_on_a_failing_disk_keeps_what_was_committed_and_no_more(tmp_path: Path) -> None:
    spec = make_spec(50)
    tokens = make_tokens(spec)
    undisturbed = tree(make_cache(tmp_path / "a", spec, labelled=False).path)
    shard = SplitLayout(spec, "train").shard_bytes
    with make_writer(tmp_path / "b", spec) as writer:
        write_pending(writer, tokens, stop_after=3)
        before = tree(writer.path)
        with (
            files_of_at_most(shard - 1),
            pytest.raises(
                StorageError,
                match=r"tokens/c.0.0.3.0: cannot be written: File too large.*continues",
            ) as caught,
        ):
            write_pending(writer, tokens)
        assert isinstance(caught.value, OSError)
        assert tree(writer.path) == before
        assert writer.pending == (3, 4, 5, 6)
    with make_writer(tmp_path / "b", spec) as writer:
        assert writer.pending == (3, 4, 5, 6)
        write_pending(writer, tokens)
        with files_of_at_most(100), pytest.raises(StorageError, match=r"cannot be written"):
            writer.finish()
        assert not writer.complete
        writer.finish()
    assert tree(writer.path) == undisturbed


def test_writer_on_a_disk_that_fails_from_the_start_leaves_no_group(tmp_path: Path) -> None:
    spec = make_spec(50)
    path = cache_folder(tmp_path, spec)
    for limit in (0, 10, 100, 1000):
        with files_of_at_most(limit), pytest.raises(StorageError, match="cannot be written"):
            make_writer(tmp_path, spec)
        assert not (path / "train.zarr").exists()
    make_cache(tmp_path, spec, labelled=False)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("may not mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_writer_on_a_full_disk_continues_after_space_is_freed(
    tmp_path: Path, tiny_disk: Path
) -> None:
    spec = make_spec(50)
    tokens = make_tokens(spec)
    ballast = tiny_disk / "ballast"
    room = 0
    stopped = []
    while True:  # every run gets one page more
        ballast.unlink(missing_ok=True)
        ballast.write_bytes(bytes(max(0, 240 - room) * 1024))
        room += 4
        try:
            with make_writer(tiny_disk, spec) as writer:
                write_pending(writer, tokens)
                writer.finish()
            break
        except StorageError as e:
            stopped.append(str(e))
    assert len(stopped) > 10
    assert all("No space left" in text for text in stopped)
    assert tree(writer.path) == tree(make_cache(tmp_path / "a", spec, labelled=False).path)
