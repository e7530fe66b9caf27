"""Annotations where others write too, where nobody may write, and in copies."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from layercache.cache import Cache
from layercache.cache.annotate import annotate
from layercache.cache.cache import load_cache
from layercache.cache.copy import copy_cache
from layercache.cache.verify import verify
from layercache.errors import StorageError
from layercache.testing import make_cache, make_spec
from tests.cache.folders import folder_in_memory
from tests.read_only import read_only


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as path:
        path.chmod(0o777)
        yield path


@pytest.fixture
def cache(folder: Path) -> Cache:
    return make_cache(folder / "from", make_spec(20))


def add_column(path: Path, name: str) -> None:
    cache = load_cache(path)
    annotate(cache, cache.annotations[["split"]].assign(**{name: range(20)}))


def test_writers_at_the_same_time_lose_no_column(cache: Cache) -> None:
    context = get_context("spawn")
    names = [f"column {i}" for i in range(4)]
    processes = [context.Process(target=add_column, args=(cache.path, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert set(load_cache(cache.path).annotation_digests) == {"label", *names}
    assert verify(cache) == []


def test_cache_that_is_not_writable_cannot_be_annotated(cache: Cache, folder: Path) -> None:
    frame = cache.annotations[["split"]].assign(x=range(20))
    with (
        read_only(folder / "from"),
        pytest.raises(
            StorageError, match=r"annotations cannot be changed.* cache push .* --to ROOT"
        ),
    ):
        annotate(cache, frame)
    copied = copy_cache(cache, to=folder / "mine")
    annotate(copied.path, frame)
    assert "x" in load_cache(copied.path).annotations


def test_copy_takes_annotations_along_and_keeps_those_of_the_target(
    cache: Cache, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(str(cache.path))
    add_column(path, "x")
    copied = load_cache(copy_cache(load_cache(path), to=folder / "to").path)
    assert copied.annotation_digests == load_cache(path).annotation_digests
    add_column(Path(str(copied.path)), "theirs")
    annotate(load_cache(path), copied.annotations[["split"]].assign(x=range(1, 21)))
    again = copy_cache(load_cache(path), to=folder / "to")
    merged = load_cache(again.path)
    assert set(merged.annotation_digests) == {"label", "x", "theirs"}
    assert merged.annotations["x"].tolist() == list(range(1, 21))
    assert "the annotation x is replaced" in caplog.text
    assert verify(merged) == []


def test_verify_names_a_missing_column_and_one_that_does_not_belong(cache: Cache) -> None:
    folder = Path(str(cache.path)) / "annotations"
    (file,) = folder.glob("*.npz")
    file.rename(folder / "0123456789ab.npz")
    problems = {c.path.name: c.problem for c in verify(cache)}
    assert problems[file.name].startswith("is missing; annotate the cache with its table again")
    assert "SHA-256 is not the one of its name" in problems["0123456789ab.npz"]
