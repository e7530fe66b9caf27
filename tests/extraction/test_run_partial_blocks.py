"""Runs that are stopped within a row block: the rows so far are saved, and not computed again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from layercache._interruption import Interrupted
from layercache.cache.find import open_cache
from layercache.cache.format import layout
from layercache.cache.verify import verify
from layercache.extraction.pipeline import async_writer
from tests.extraction.fakes import FakeBackbone, Pictures, dataset, tree
from tests.extraction.runs import MODELS, SPLITS, Run, check

SAMPLES = {**SPLITS, "train": Pictures(53, broken=frozenset({2, 40}))}


@pytest.fixture
def large_blocks(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run` with row blocks of 64 rows: each split is one."""
    monkeypatch.setattr(layout, "MAX_SHARD_BYTES", 1 << 20)

    def with_broken(**options: Any) -> Any:
        return run(**({"dataset": dataset(SAMPLES), "on_error": "skip"} | options))

    return with_broken


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Lets Ctrl-C happen at forward number n of the next run; None: no more."""
    forward = FakeBackbone.__call__

    def set_stop(n: int | None) -> None:
        before = len(MODELS["fake"].seen)

        def interrupted(self: FakeBackbone, images: torch.Tensor) -> torch.Tensor:
            if n is not None and len(self.seen) == before + n:
                raise KeyboardInterrupt
            return forward(self, images)

        monkeypatch.setattr(FakeBackbone, "__call__", interrupted)

    return set_stop


def parts(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.part"))


def test_extract_stopped_within_a_block_continues_there_to_the_same_bytes(
    large_blocks: Run, tmp_path: Path, stop_at: Any
) -> None:
    (whole,) = large_blocks(cache=tmp_path / "whole")
    assert open_cache(whole.path).progress("train") == (1, 1)
    options: dict[str, Any] = {"cache": tmp_path / "cut"}
    for forwards, rows in ((4, 20), (3, 35)):
        stop_at(forwards)
        with pytest.raises(
            Interrupted,
            match=rf"^0 of 2 row blocks are committed and kept; .* with {rows} images of the next$",
        ):
            large_blocks(**options)
    (file,) = parts(tmp_path / "cut")
    assert file.name == "train.00000000.part"
    assert [str(c.path) for c in verify(open_cache(file.parents[1])) if c.exists] == []
    stop_at(None)
    (done,) = large_blocks(**options)
    assert done.images == 73 - 35
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_extract_saves_the_rows_of_a_block_at_intervals(
    large_blocks: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `kill -9` would leave, at every forward."""
    forward = FakeBackbone.__call__

    def look(self: FakeBackbone, images: torch.Tensor) -> torch.Tensor:
        sizes.append(sum(file.stat().st_size for file in parts(tmp_path)))
        return forward(self, images)

    monkeypatch.setattr(FakeBackbone, "__call__", look)
    for interval, saves in ((0, True), (60, False)):
        sizes: list[int] = []
        monkeypatch.setattr(async_writer, "SAVE_INTERVAL_S", interval)
        large_blocks(cache=tmp_path / f"every {interval} s")
        assert (max(sizes) > 0) == saves
        assert not parts(tmp_path), "removed when the block is committed"
    assert tree(tmp_path / "every 0 s") == tree(tmp_path / "every 60 s")


def test_extract_continued_with_another_batch_size_uses_whole_batches_of_what_is_saved(
    large_blocks: Run, tmp_path: Path, stop_at: Any
) -> None:
    stop_at(4)
    with pytest.raises(Interrupted):
        large_blocks()
    stop_at(None)
    (done,) = large_blocks(batch_size=8)
    assert done.images == 73 - 16
    assert set(open_cache(done.path).split("train").skipped) == {"pic/0002", "pic/0040"}
    (done,) = large_blocks(cache=tmp_path / "whole", dataset=dataset())
    check(done, MODELS["fake"], SPLITS)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def swap(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"train"', b'"test "'))


@pytest.mark.parametrize("damage", [cut, flip, swap])
def test_extract_ignores_damaged_rows(
    large_blocks: Run, tmp_path: Path, stop_at: Any, damage: Callable[[Path], None]
) -> None:
    large_blocks(cache=tmp_path / "whole")
    stop_at(4)
    with pytest.raises(Interrupted):
        large_blocks(cache=tmp_path / "cut")
    damage(parts(tmp_path / "cut")[0])
    stop_at(None)
    (done,) = large_blocks(cache=tmp_path / "cut")
    assert done.images == 73
    parts_left = parts(tmp_path / "cut")
    assert not parts_left
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_extract_removes_the_rows_of_a_block_that_was_committed_by_a_killed_run(
    run: Run, tmp_path: Path
) -> None:
    (done,) = run()
    whole = tree(tmp_path)
    (done.path / "commits/train/complete.json").unlink()
    (done.path / "commits/train.00000002.part").write_bytes(b"left")
    run()
    assert tree(tmp_path) == whole


def test_extract_of_several_models_stopped_within_blocks_continues_each(
    large_blocks: Run, tmp_path: Path, stop_at: Any
) -> None:
    models = {"models": ["fake", "large"], "dataset": dataset(), "on_error": "raise"}
    large_blocks(cache=tmp_path / "whole", **models)
    stop_at(4)
    with pytest.raises(Interrupted):
        large_blocks(cache=tmp_path / "cut", **models)
    stop_at(None)
    done = large_blocks(cache=tmp_path / "cut", **models)
    assert all(e.images <= 73 - 15 for e in done)
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
