"""`folder:PATH`: one folder per class, optionally below a folder per split.

    ROOT/<class>/.../image.jpg                  20 % of every class are held out as "test"
    ROOT/{train,test}/<class>/.../image.jpg     without `test`, a folder `val`, `valid` or
                                                `validation` becomes "test"

Classes are in the sorted order of the folders' names. Hidden files and other file types are left
out and counted.
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
from layercache.extraction.datasets.in_memory import InMemoryDataset, common_classes, safe_name
from layercache.extraction.datasets.subsampling import hold_out_test

VALIDATION_NAMES = ("val", "valid", "validation")
"""Names of a validation split, which becomes "test" in a dataset that has no test split."""


def open_folder(path: str | os.PathLike[str]) -> InMemoryDataset:
    """Open the dataset below `path`.

    Raises:
        DataNotFoundError: There is no folder `path`.
        DataError: There are no classes, a class is empty, or splits have different classes.
    """
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        raise DataNotFoundError(f"folder:{path}: there is no folder {root}")
    split_folders = _split_folders(root)
    classes = common_classes(
        {folder or root.name: _class_folders(root / folder) for folder in split_folders.values()},
        where=root,
        remedy="make an empty folder where the split has no image of the class",
    )
    ignored: Counter[str] = Counter()
    samples: dict[str, Samples] = {
        split: _scan(root, folder, classes, ignored) for split, folder in split_folders.items()
    }
    _check_no_empty_class(root, classes, samples)
    if tuple(samples) in (("",), ("train",)):
        samples = hold_out_test(next(iter(samples.values())))
    return InMemoryDataset(
        name=safe_name(root.resolve().name), classes=classes, samples=samples, ignored=ignored
    )


def _split_folders(root: Path) -> dict[str, str]:
    """Return split -> folder below root; {"": ""} if root itself holds the class folders."""
    names = set(_list_folders(root))
    if not names & {"train", "test"} or not names <= {"train", "test", *VALIDATION_NAMES}:
        return {"": ""}
    folders: dict[str, str] = {split: split for split in ("train", "test") if split in names}
    validation = next((name for name in VALIDATION_NAMES if name in names), None)
    if validation is not None:
        folders["val" if "test" in names else "test"] = validation
    return folders


def _class_folders(path: Path) -> tuple[str, ...]:
    names = tuple(sorted(_list_folders(path)))
    if not names:
        raise DataError(f"{path}: expected one folder per class (<class>/image.jpg), got no folder")
    return names


def _list_folders(path: Path) -> list[str]:
    return [e.name for e in os.scandir(path) if e.is_dir() and not e.name.startswith(".")]


def _scan(root: Path, folder: str, classes: tuple[str, ...], ignored: Counter[str]) -> FileSamples:
    """Return all images of one split, sorted by path."""
    ids: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        relative = f"{folder}/{name}" if folder else name
        images = sorted(_images(str(root / relative), relative, ignored, ()))
        ids += images
        labels += [label] * len(images)
    return FileSamples(str(root), ids, np.asarray(labels, np.int64))


def _images(
    path: str, relative: str, ignored: Counter[str], parents: tuple[tuple[int, int], ...]
) -> Iterator[str]:
    """Yield relative paths of the images below `path`.

    Links are followed, except a link back to one of the `parents` (device, inode).
    """
    stat = os.stat(path)
    inode = (stat.st_dev, stat.st_ino)
    if inode in parents:
        return
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                ignored["hidden"] += 1
            elif entry.is_dir():
                below = f"{relative}/{entry.name}"
                yield from _images(entry.path, below, ignored, (*parents, inode))
            elif is_image(entry.name):
                yield f"{relative}/{entry.name}"
            else:
                ignored["not an image by its name"] += 1


def _check_no_empty_class(
    root: Path, classes: tuple[str, ...], samples: dict[str, Samples]
) -> None:
    labels = np.concatenate([split.labels for split in samples.values()])
    counts = np.bincount(labels, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        raise DataError(
            f"{root}: class folder {empty[0]!r} holds no image ({len(empty)} such class(es)): "
            "add images, or remove the folder"
        )
