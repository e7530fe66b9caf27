"""What was committed is not done again; what was lost or cut is."""

from __future__ import annotations

from pathlib import Path

import pytest

from layercache.cache.find import open_cache
from layercache.cache.verify import verify
from layercache.errors import CacheCorruptError
from tests.extraction.fakes import tree
from tests.extraction.runs import Run


def test_extract_of_models_at_different_points_completes_each(run: Run, tmp_path: Path) -> None:
    run(models=["fake", "large"])
    whole = tree(tmp_path)
    for done, block in ((run(models=["fake"])[0], 2), (run(models=["large"])[0], 1)):
        for lost in (f"commits/train/{block:08d}.json", f"train.zarr/tokens/c.0.0.{block}.0"):
            (done.path / lost).unlink()
    done = run(models=["fake", "large"])
    assert [e.images for e in done] == [8, 16]
    assert tree(tmp_path) == whole


def test_extract_of_a_complete_split_with_a_lost_or_cut_shard_repairs_it(
    run: Run, tmp_path: Path
) -> None:
    (done,) = run()
    whole = tree(tmp_path)
    (done.path / "train.zarr/tokens/c.0.0.1.0").unlink()
    shard = done.path / "test.zarr/tokens/c.0.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-1])
    (done,) = run()
    assert done.images == 16
    assert tree(tmp_path) == whole


@pytest.mark.parametrize(
    "key",
    [
        "train.zarr/valid/c/0",
        "train.zarr/tokens/zarr.json",
        "train.zarr/id/c/0",
        "commits/train/00000001.json",
    ],
)
@pytest.mark.parametrize("cut", [True, False])
def test_extract_of_a_complete_split_with_a_lost_or_cut_small_file_repairs_it(
    run: Run, key: str, cut: bool
) -> None:
    (done,) = run()
    whole = tree(done.path)
    data = (done.path / key).read_bytes()
    (done.path / key).unlink()
    if cut:
        (done.path / key).write_bytes(data[:-1])
    if cut and key.endswith(
        "zarr.json"
    ):  # another compressor may be requested, and only this file has it
        with pytest.raises(
            CacheCorruptError, match=r"zarr\.json: .*delete it and run the same extraction again"
        ):
            run()
        (done.path / key).unlink()
    run()
    assert tree(done.path) == whole
    assert not verify(open_cache(done.path))
