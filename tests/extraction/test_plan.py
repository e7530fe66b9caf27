"""Checks before an extraction starts: identity, unreadable files, disk space."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from PIL import Image

from layercache.cache.find import open_cache
from layercache.errors import DataError, StorageError
from layercache.extraction.datasets.in_memory import InMemoryDataset
from tests.extraction.fakes import Pictures, dataset, image, tree
from tests.extraction.runs import MODELS, SPLITS, Run


def test_plan_with_too_small_a_disk_is_refused_before_any_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10_000, 9_000, 1000))
    with pytest.raises(
        StorageError,
        match=r"needs .* kB more and the disk has 1 kB free: make room, choose another disk with",
    ):
        run()
    assert tree(tmp_path) == {}


def test_plan_of_a_changed_dataset_is_another_cache(run: Run) -> None:
    paths = [run()[0].path]
    for changed in (
        dataset({"train": Pictures(53), "test": Pictures(20, first=1001)}),
        InMemoryDataset(name="images", classes=("a", "b", "c"), samples=SPLITS),
    ):
        paths.append(run(dataset=changed)[0].path)
    assert len(set(paths)) == 3


def test_plan_with_a_missing_file_is_refused_or_the_file_is_skipped_and_listed(
    run: Run, tmp_path: Path
) -> None:
    for n in range(4):
        Image.fromarray(image(n)).save(tmp_path / f"{n}.png")
    lines = ["path,label,split", *(f"{n}.png,{n % 2},train" for n in (0, 1, 7, 2, 3))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(
        DataError,
        match=r"^sample '7\.png' cannot be read: No such file .*7\.png\. on_error='skip' leaves",
    ):
        run(dataset=f"csv:{tmp_path}/t.csv", splits=["train"])
    assert MODELS["fake"].seen == []
    (done,) = run(dataset=f"csv:{tmp_path}/t.csv", splits=["train"], on_error="skip")
    split = open_cache(done.path).split("train")
    assert done.skipped == 1
    assert list(split.skipped) == ["7.png"]
    assert "No such file" in split.skipped["7.png"]
    assert split.ids == ["0.png", "1.png", "2.png", "3.png"]
