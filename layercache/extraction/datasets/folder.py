"""`folder:PATH`: one folder per class, with or without a folder per split above them.

    ROOT/<class>/.../image.jpg                   20 % of every class are held out as "test", by a draw that is always the same
    ROOT/{train,test}/<class>/.../image.jpg      as it stands; `val`, `valid` or `validation` serves as "test" where there is no `test`

Class order is the sorted order of the folders' names. Hidden files and files that are no images are left out and counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from layercache.errors import DataError, DataNotFoundError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.datasets.image_files import FileSamples, is_image
from layercache.extraction.datasets.in_memory import InMemoryDataset, safe_name
from layercache.extraction.datasets.subsampling import stratified

VALIDATION = ("val", "valid", "validation")
TRAIN_SHARE = 0.8


def folder(path: str | os.PathLike[str], *, name: str | None = None) -> InMemoryDataset:
    """The data set below `path`. Raises DataNotFoundError, DataError (no classes, an empty class, classes that differ between splits)."""
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        raise DataNotFoundError(f"folder:{path}: there is no folder {root}")
    name = name or safe_name(root.resolve().name)
    places = _places(root)
    classes = _classes(root, places)
    ignored: Counter[str] = Counter()
    samples: dict[str, Samples] = {
        s: _scan(root, below, classes, ignored) for s, below in places.items()
    }
    _refuse_empty_classes(root, classes, samples)
    if tuple(samples) in (("",), ("train",)):
        samples = hold_out(next(iter(samples.values())))
    return InMemoryDataset(name=name, classes=classes, samples=samples, ignored=ignored)


def hold_out(samples: Samples) -> dict[str, Samples]:
    """Train and test out of one split: 80 and 20 % of every class, drawn with seed 0; a class of one image stays in train.

    A multi-label split is drawn by its rows alone.
    """
    n = len(samples.labels)
    strata = samples.labels if samples.labels.ndim == 1 else np.zeros(n, np.int64)
    train = stratified(strata, min(round(TRAIN_SHARE * n), n - 1), seed=0, key="hold-out")
    return {"train": samples.take(train), "test": samples.take(np.setdiff1d(np.arange(n), train))}


def _places(root: Path) -> dict[str, str]:
    """Split name -> folder below root; {"": ""} when the classes lie directly below root."""
    found = set(_folders(root))
    if not found & {"train", "test"} or not found <= {"train", "test", *VALIDATION}:
        return {"": ""}
    places: dict[str, str] = {split: split for split in ("train", "test") if split in found}
    for validation in VALIDATION:
        if validation in found:
            places["val" if "test" in found else "test"] = validation
            break
    return places


def _classes(root: Path, places: dict[str, str]) -> tuple[str, ...]:
    of = {place: sorted(_folders(root / place)) for place in places.values()}
    first, *others = of
    if not of[first]:
        raise DataError(
            f"{root / first}: expected one folder per class (ROOT/<class>/image.jpg), found no folder"
        )
    for other in others:
        differ = sorted(set(of[first]) ^ set(of[other]))
        if differ:
            has, lacks = (first, other) if differ[0] in of[first] else (other, first)
            raise DataError(
                f"{root}: class {differ[0]!r} has a folder in {has}/ but none in {lacks}/ ({len(differ)} such class(es)); "
                f"make an empty folder where the split has no image of the class"
            )
    return tuple(of[first])


def _folders(path: Path) -> list[str]:
    return [e.name for e in os.scandir(path) if e.is_dir() and not e.name.startswith(".")]


def _scan(root: Path, below: str, classes: tuple[str, ...], ignored: Counter[str]) -> FileSamples:
    """All images of one split, sorted by path."""
    ids: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(
            _images(str(root / below / name), f"{below}/{name}" if below else name, ignored, ())
        )
        ids += found
        labels += [label] * len(found)
    return FileSamples(str(root), ids, np.asarray(labels, np.int64))


def _images(
    path: str, relative: str, ignored: Counter[str], above: tuple[tuple[int, int], ...]
) -> Iterator[str]:
    """Relative paths of the images below `path`, links followed; a link back to a folder above is not entered."""
    stat = os.stat(path)
    here = (stat.st_dev, stat.st_ino)
    if here in above:
        return
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                ignored["hidden"] += 1
            elif entry.is_dir():
                yield from _images(entry.path, f"{relative}/{entry.name}", ignored, (*above, here))
            elif is_image(entry.name):
                yield f"{relative}/{entry.name}"
            else:
                ignored["not an image by its name"] += 1


def _refuse_empty_classes(
    root: Path, classes: tuple[str, ...], samples: dict[str, Samples]
) -> None:
    counts = sum(np.bincount(s.labels, minlength=len(classes)) for s in samples.values())
    empty = [c for c, n in zip(classes, np.atleast_1d(counts), strict=True) if n == 0]
    if empty:
        raise DataError(
            f"{root}: class folder {empty[0]!r} holds no image ({len(empty)} such class(es)): add images, or remove the folder"
        )
