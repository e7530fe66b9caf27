"""`folder:PATH`: one folder per class, optionally below a folder per split.

    ROOT/<class>/.../image.jpg                  20 % of every class are held out as "test"
    ROOT/{train,test}/<class>/.../image.jpg     without `test`, a validation folder becomes "test"
    ROOT/image.jpg, ROOT/test/image.jpg         images without labels

Split folders may have any usual form of their name ("Training", "VAL", "test_set"; see
`splits.split_of`). Folders next to them are left out. A folder without class folders has no
labels.
Classes are in the sorted order of the folders' names. Whatever is left out is counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from layercache.cache.annotations.class_names import unify_spellings
from layercache.cache.format.origin import plain_name
from layercache.errors import DataError, DataNotFoundError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.datasets.image_files import (
    SYSTEM_FOLDERS,
    THUMBNAIL_FOLDERS,
    FileSamples,
    ignored_reason,
)
from layercache.extraction.datasets.in_memory import InMemoryDataset, common_classes
from layercache.extraction.datasets.splits import (
    choose_splits,
    describe_splits,
    split_of,
)

LAYOUT = "PATH/<class>/image.jpg or PATH/{train,test}/<class>/image.jpg"


def open_folder(path: str | os.PathLike[str]) -> InMemoryDataset:
    """Open the dataset below `path`.

    Raises:
        DataNotFoundError: There is no folder `path`.
        DataError: There are no classes, a class is empty, splits have different classes, or it is
            not clear which folders are splits and which are classes.
    """
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        raise DataNotFoundError(f"folder:{path}: there is no folder {root}")
    ignored: Counter[str] = Counter()
    split_folders = _split_folders(root, ignored)
    flat = [folder for folder in split_folders.values() if _is_flat(root / folder)]
    for folder in dict.fromkeys(("", *split_folders.values())):
        if folder not in flat:
            _count_neighbors(root / folder, ignored)
    names = {
        folder: _class_names(root, folder)
        for folder in split_folders.values()
        if folder not in flat
    }
    spelling = unify_spellings(name for folder_names in names.values() for name in folder_names)
    class_folders = {
        folder: _by_spelling(root / folder, folder_names, spelling)
        for folder, folder_names in names.items()
    }
    classes = (
        ()
        if not class_folders
        else common_classes(
            {folder or root.name: tuple(sorted(found)) for folder, found in class_folders.items()},
            where=root,
            remedy="make an empty folder where the split has no image of the class",
        )
    )
    scanned: dict[str, Samples] = {
        split: _scan_flat(root, folder, ignored)
        if folder in flat
        else _scan(root, folder, [class_folders[folder][name] for name in classes], ignored)
        for split, folder in split_folders.items()
    }
    _check_no_empty_class(root, classes, scanned)
    samples = choose_splits(scanned)
    by_folder = {folder: scanned[split] for split, folder in split_folders.items()}
    return InMemoryDataset(
        name=plain_name(root.resolve().name),
        classes=classes,
        samples=samples,
        ignored=ignored,
        notes=(
            *(
                f"the folder {name!r} is taken as a class, not as a split"
                for name in classes
                if split_of(name)
            ),
            *describe_splits(by_folder, samples),
        ),
    )


def _split_folders(root: Path, ignored: Counter[str]) -> dict[str, str]:
    """Return split -> folder below root; {"": ""} if root itself holds the class folders."""
    names = _list_folders(root)
    others = [name for name in names if split_of(name) is None]
    by_split: dict[str, str] = {}
    flat: list[str] = []
    for name in names:
        split = split_of(name)
        if split is None:
            continue
        if not _list_folders(root / name):
            flat.append(name)
        elif split in by_split:
            raise DataError(
                f"{root}: expected one folder per split, got {by_split[split]!r} and {name!r} for "
                f"{split}: merge them, or move one elsewhere"
            )
        else:
            by_split[split] = name
    if not by_split and (not flat or (len(flat) == 1 and others)):
        return {"": ""}  # a folder "train" full of images, next to others, is a class
    images = {name: _count_images(root, name) for name in [*others, *flat]}
    unsplit = [name for name in others if images[name]]
    if len(by_split) + len(flat) == 1 and unsplit:
        split_folder = next(iter([*by_split.values(), *flat]))
        raise DataError(
            f"{root}: expected either split folders or class folders ({LAYOUT}), got "
            f"{split_folder!r} next to {_join(unsplit)}: open folder:{root / split_folder}, or "
            f"move {split_folder!r} elsewhere, or rename it if it is a class"
        )
    for name in unsplit:
        ignored[f"folder {name!r} next to the split folders"] += images[name]
    for name in flat:
        if not images[name]:
            raise DataError(
                f"{root / name}: expected one folder per class (<class>/image.jpg), got an empty "
                "folder: fill it, or remove it"
            )
        split = split_of(name)
        if split is None or split in by_split:
            raise DataError(
                f"{root}: expected one folder per split, got {by_split[str(split)]!r} and "
                f"{name!r} for {split}: merge them, or move one elsewhere"
            )
        by_split[split] = name
    return {split: by_split[split] for split in ("train", "test", "val") if split in by_split}


def _class_names(root: Path, folder: str) -> list[str]:
    """Return the names of the class folders in root/folder; refuse what is another level."""
    path = root / folder
    names = sorted(_list_folders(path))
    if not names:
        raise DataError(f"{path}: expected one folder per class (<class>/image.jpg), got no folder")
    for name in names:
        below = _list_folders(path / name)
        splits = [subfolder for subfolder in below if split_of(subfolder)]
        one_too_high = len(names) == 1 and below and not _holds_image(path / name)
        if one_too_high or len({split_of(subfolder) for subfolder in splits}) > 1:
            remedy = f"open folder:{path / name}"
            if folder:
                remedy = f"move the folders in {path / name} up into {path}"
            elif len(names) > 1:
                remedy += ", or put the split folders above the class folders"
            raise DataError(
                f"{path}: expected class folders ({LAYOUT}), got {name!r}, which holds the "
                f"folders {_join(splits if len(splits) > 1 else below)}: {remedy}"
            )
    return names


def _by_spelling(path: Path, names: Sequence[str], spelling: Mapping[str, str]) -> dict[str, str]:
    """Return class name -> name of its folder in `path`."""
    folders: dict[str, str] = {}
    for name in names:
        if spelling[name] in folders:
            raise DataError(
                f"{path}: two folders are called {spelling[name]!r}, in different Unicode forms: "
                "merge them"
            )
        folders[spelling[name]] = name
    return folders


def _list_folders(path: Path) -> list[str]:
    return sorted(
        entry.name
        for entry in _scandir(path)
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in SYSTEM_FOLDERS
    )


def _scandir(path: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(
            f"{path}: the folder cannot be read: {error.strerror}: make it readable, or move it "
            "elsewhere"
        ) from error


def _holds_image(path: Path) -> bool:
    return any(ignored_reason(entry) is None for entry in _scandir(path) if not entry.is_dir())


def _count_images(root: Path, folder: str) -> int:
    return sum(1 for _ in _images(str(root / folder), folder, Counter(), ()))


def _count_neighbors(path: Path, ignored: Counter[str]) -> None:
    """Count the files and folders next to class or split folders."""
    for entry in _scandir(path):
        if entry.name in SYSTEM_FOLDERS:
            ignored[f"folder {entry.name!r}"] += 1
        elif not entry.is_dir() and ignored_reason(entry) is None:
            ignored["image outside the class folders"] += 1


def _join(names: Sequence[str], limit: int = 5) -> str:
    """Return up to `limit` quoted names."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more


def _scan(
    root: Path, folder: str, class_folders: Sequence[str], ignored: Counter[str]
) -> FileSamples:
    """Return all images of one split, sorted by class and path."""
    ids: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(class_folders):
        relative = f"{folder}/{name}" if folder else name
        images = sorted(_images(str(root / relative), relative, ignored, ()))
        ids += images
        labels += [label] * len(images)
    return FileSamples(str(root), ids, np.asarray(labels, np.int64))


def _is_flat(path: Path) -> bool:
    """Return whether a folder holds images and no folder."""
    return not _list_folders(path) and _holds_image(path)


def _scan_flat(root: Path, folder: str, ignored: Counter[str]) -> FileSamples:
    """Return the images of a folder without class folders, sorted; none has a label."""
    paths = _images(str(root / folder), folder or ".", ignored, ())
    ids = sorted(path.removeprefix("./") for path in paths)
    return FileSamples(str(root), ids, np.full(len(ids), -1, np.int64))


def _images(
    path: str, relative: str, ignored: Counter[str], parents: tuple[tuple[int, int], ...]
) -> Iterator[str]:
    """Yield relative paths of the images below `path`.

    Links are followed, except a link back to one of the `parents` (device, inode).
    """
    stat = os.stat(path)
    inode = (stat.st_dev, stat.st_ino)
    if inode in parents:
        ignored["link to a folder above"] += 1
        return
    entries = _scandir(path)
    if not entries and parents:
        ignored["empty folder"] += 1
    for entry in entries:
        if entry.name in SYSTEM_FOLDERS or entry.name in THUMBNAIL_FOLDERS:
            ignored[f"folder {entry.name!r}"] += 1
        elif entry.name.startswith("."):
            ignored["hidden"] += 1
        elif entry.is_dir():
            below = f"{relative}/{entry.name}"
            yield from _images(entry.path, below, ignored, (*parents, inode))
        elif (reason := ignored_reason(entry)) is None:
            yield f"{relative}/{entry.name}"
        else:
            ignored[reason] += 1


def _check_no_empty_class(
    root: Path, classes: tuple[str, ...], samples: dict[str, Samples]
) -> None:
    labels = np.concatenate([split.labels for split in samples.values()])
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        raise DataError(
            f"{root}: class folder {empty[0]!r} holds no image ({len(empty)} such class(es)): "
            "add images, or remove the folder"
        )
