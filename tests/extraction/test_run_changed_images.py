"""Images that are replaced while they are extracted, and put back afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from layercache.cache.find import open_cache
from layercache.cache.verify import verify
from layercache.errors import DataChangedError
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.datasets.in_memory import InMemoryDataset
from tests.extraction.fakes import FakeBackbone, image, tree
from tests.extraction.runs import MODELS, Run

ROWS = 60


def write(folder: Path, *, first: int) -> None:
    """Write 60 images, all of one size in bytes."""
    folder.mkdir(exist_ok=True)
    for n in range(ROWS):
        Image.fromarray(image(first + n)).save(folder / f"{n:02d}.bmp")


def dataset(folder: Path, max_hashed_bytes: int) -> InMemoryDataset:
    ids = [f"{n:02d}.bmp" for n in range(ROWS)]
    samples = FileSamples(str(folder), ids, np.arange(ROWS) % 3, max_hashed_bytes)
    return InMemoryDataset(name="files", classes=("a", "b", "c"), samples={"train": samples})


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Calls a function at the third forward of a run."""
    forward = FakeBackbone.__call__

    def at_third_forward(change: Callable[[], object]) -> None:
        first = len(MODELS["fake"].seen)

        def changing(self: FakeBackbone, images: torch.Tensor) -> torch.Tensor:
            if len(self.seen) == first + 2:
                change()
            return forward(self, images)

        monkeypatch.setattr(FakeBackbone, "__call__", changing)

    return at_third_forward


@pytest.mark.parametrize(("workers", "max_hashed_bytes"), [(0, 1), (0, 1 << 30), (2, 1 << 30)])
def test_extract_of_images_that_are_replaced_and_put_back_stops_and_continues_rightly(
    run: Run, tmp_path: Path, during: Any, workers: int, max_hashed_bytes: int
) -> None:
    files, away, foreign = tmp_path / "files", tmp_path / "away", tmp_path / "foreign"
    write(files, first=0)
    write(foreign, first=500)
    for file in foreign.iterdir():
        os.utime(file, ns=(1, 1))
    run(dataset=dataset(files, max_hashed_bytes), cache=tmp_path / "whole", on_error="skip")

    def replace() -> None:
        files.rename(away)
        foreign.rename(files)

    cut: dict[str, Any] = {
        "cache": tmp_path / "cut",
        "workers": workers,
        "batch_size": 2,
        "on_error": "skip",
    }
    during(replace)
    with pytest.raises(DataChangedError, match=r"^sample '\d\d\.bmp' has changed since the data"):
        run(dataset=dataset(files, max_hashed_bytes), **cut)
    files.rename(foreign)
    away.rename(files)
    during(lambda: None)
    (done,) = run(dataset=dataset(files, max_hashed_bytes), **cut)
    assert not verify(open_cache(done.path))
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_extract_of_images_that_stay_replaced_makes_another_cache(
    run: Run, tmp_path: Path, during: Any
) -> None:
    files = tmp_path / "files"
    write(files, first=0)
    (clean,) = run(dataset=dataset(files, 1 << 30), cache=tmp_path / "whole")
    during(lambda: write(files, first=500))
    options: dict[str, Any] = {"cache": tmp_path / "cut", "batch_size": 2}
    with pytest.raises(DataChangedError, match="otherwise makes another cache of the images as"):
        run(dataset=dataset(files, 1 << 30), **options)
    during(lambda: None)
    (done,) = run(dataset=dataset(files, 1 << 30), **options)
    assert done.path.name != clean.path.name
    assert done.images == ROWS
    assert len(list((tmp_path / "cut").rglob("complete.json"))) == 1


def test_extract_continued_after_images_were_replaced_by_others_of_their_size_redoes_their_blocks(
    run: Run, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    files = tmp_path / "files"
    write(files, first=0)
    options: dict[str, Any] = {"cache": tmp_path / "cut", "batch_size": 2}

    def forward(self: FakeBackbone, images: torch.Tensor) -> torch.Tensor:
        if len(self.seen) == forwards + 20:
            raise KeyboardInterrupt
        return original(self, images)

    forwards, original = len(MODELS["fake"].seen), FakeBackbone.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeBackbone, "__call__", forward)
        with pytest.raises(KeyboardInterrupt):
            run(dataset=dataset(files, 1), **options)
    # blocks 0 to 4 of 8 rows are committed; one image each of the blocks 1, 4 and 6 changes
    for n in (9, 39, 50):
        Image.fromarray(image(500 + n)).save(files / f"{n:02d}.bmp")
    (done,) = run(dataset=dataset(files, 1), **options)
    assert done.images == ROWS - 3 * 8
    assert "2 row blocks of split 'train' with images that were modified since" in logged.text
    assert not verify(open_cache(done.path))
    run(dataset=dataset(files, 1), cache=tmp_path / "whole")
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
    assert not list(tmp_path.rglob("*.stamps"))
