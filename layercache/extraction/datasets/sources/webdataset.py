"""`wds:PATH`: local tars in the layout of the clip-benchmark collection.

    ROOT/classnames.txt                    one class name per line, in label order
    ROOT/{train,val,test}/nshards.txt      the number of tars, n
    ROOT/{train,val,test}/{0..n-1}.tar     <key>.jpg (or jpeg, png, webp) and <key>.cls, the label

Split folders may have any usual form of their name ("validation"; see `splits.split_of`); without
`test`, the validation folder becomes "test". A sample's id is "<folder>/<tar number>/<key>". Tars
are indexed once, by their headers; an image is then a single pread.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from layercache._units import format_bytes
from layercache.cache.format.crc32c import crc32c
from layercache.cache.format.origin import plain_name
from layercache.errors import DataError, DataNotFoundError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.datasets.change_detection import Stamps
from layercache.extraction.datasets.image_files import (
    IMAGE_SUFFIXES,
    MAX_FILE_BYTES,
    MAX_HASHED_BYTES,
    SYSTEM_FOLDERS,
    Contents,
    HashedImages,
    hash_image,
    open_encoded,
    read_unchanged,
)
from layercache.extraction.datasets.in_memory import InMemoryDataset
from layercache.extraction.datasets.sources.tar_index import (
    TarMember,
    list_members,
    modification_time,
    open_tar,
    read_bytes,
)
from layercache.extraction.datasets.splits import (
    choose_splits,
    describe_splits,
    order_splits,
    split_of,
)

SHARD_COUNT = "nshards.txt"
"""File with the number of tars of a split."""
VTAB = ("resisc45", "dmlab", "diabetic_retinopathy")
"""Named datasets that the clip-benchmark collection provides as tars."""
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
"""Extensions of a tar's images; one of these goes before another suffix of IMAGE_SUFFIXES."""
MAX_TEXT_BYTES = 64 << 20
"""Largest `classnames.txt` that is read."""
MAX_LABEL_BYTES = 1024
"""Largest label file that is read."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TarSamples(HashedImages):
    """Images in tars, N of them."""

    shards: tuple[str, ...]
    """Paths of the tars."""
    ids: list[str]
    """Split, tar number and key."""
    labels: Array
    """int64 (N,)."""
    positions: Array
    """int64 (N, 3): index into `shards`, offset, size."""
    max_hashed_bytes: int = MAX_HASHED_BYTES
    """Total size above which `content_digest` covers the images' sizes instead of their bytes."""

    @cached_property
    def _contents(self) -> Contents:
        n, sizes = len(self.ids), self.positions[:, 2]
        digest = hashlib.sha256(sizes.astype("<i8").tobytes())
        if int(sizes.sum()) > self.max_hashed_bytes:
            mtimes = np.asarray([modification_time(shard) for shard in self.shards], np.int64)
            stamps = Stamps(sizes, mtimes=mtimes[self.positions[:, 0]])
            return Contents(f"sizes:{digest.hexdigest()}", {}, None, stamps)
        hashes, crcs = np.zeros(n, np.uint64), np.zeros(n, np.uint32)
        for row in range(n):
            encoded = self.read_bytes(row)
            digest.update(encoded)
            hashes[row], crcs[row] = hash_image(encoded), crc32c(encoded)
        return Contents(f"bytes:{digest.hexdigest()}", {}, hashes, Stamps(sizes, crcs))

    def read_bytes(self, row: int) -> bytes:
        """Return the encoded image `row`."""
        shard, offset, size = self.positions[row].tolist()
        if size > MAX_FILE_BYTES:
            raise DataError(
                f"{self.shards[shard]}: expected an image of at most "
                f"{format_bytes(MAX_FILE_BYTES)}, got {format_bytes(size)}"
            )
        return read_bytes(self.shards[shard], offset, size)

    def load(self, row: int) -> Image.Image:
        """Return image `row`.

        Raises:
            DataChangedError: It has changed since `content_digest` was made.
            Exception: Whatever reading and opening it raise.
        """
        shard = self.shards[self.positions[row, 0]]
        return open_encoded(
            read_unchanged(self, row, lambda: (self.read_bytes(row), modification_time(shard)))
        )

    def take(self, rows: Array) -> Self:
        """Return only the given rows, in the given order."""
        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            labels=self.labels[rows],
            positions=self.positions[rows],
        )


def open_webdataset(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    splits: Collection[str] = ("train", "val", "test"),
) -> InMemoryDataset:
    """Open the dataset below `path`.

    Args:
        path: Folder with `classnames.txt` and the folders of the splits.
        name: Name in caches and tables; by default the folder's.
        splits: Splits to take; folders of others are counted as left out.

    Raises:
        DataNotFoundError: A file of the layout is missing.
        DataError: A tar is damaged, or its members are not pairs of an image and a label.
    """
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        raise DataNotFoundError(f"wds:{path}: there is no folder {root}")
    ignored: Counter[str] = Counter()
    folders = _split_folders(root, splits, ignored)
    open_tar.cache_clear()  # a tar may have been replaced since this process last read it
    classes = _read_class_names(root / "classnames.txt")
    indexed: dict[str, Samples] = {
        split: _index_split(root, folder, ignored) for split, folder in folders.items()
    }
    chosen = choose_splits(indexed, divide=False)
    by_folder = {folders[split]: samples for split, samples in indexed.items()}
    return InMemoryDataset(
        name=name or plain_name(root.resolve().name),
        classes=classes,
        samples=order_splits(chosen),
        ignored=ignored,
        notes=describe_splits(by_folder, chosen),
    )


def _split_folders(root: Path, splits: Collection[str], ignored: Counter[str]) -> dict[str, str]:
    """Return split -> name of its folder.

    Folders under the usual name go before others; of the others, only those with tars are splits.
    """
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    folders: dict[str, str] = {}
    for folder in sorted(names, key=lambda name: (name not in splits, name)):
        split = split_of(folder)
        if split is None:
            continue
        if split not in splits:
            ignored[f"folder {folder!r}, which is not used"] += 1
        elif split in folders:
            ignored[f"folder {folder!r} next to {folders[split]!r}"] += 1
        elif folder not in ("train", "test") and not (root / folder / SHARD_COUNT).is_file():
            ignored[f"folder {folder!r} without {SHARD_COUNT}"] += 1
        else:
            folders[split] = folder
    if not folders:
        raise DataNotFoundError(
            f"{root}: expected train/, val/ or test/ with 0.tar, 1.tar .. and {SHARD_COUNT}, got "
            "none of them"
        )
    return folders


def open_vtab(name: str, root: Path) -> InMemoryDataset:
    """Open a dataset of VTAB in root/<name>, root/wds_<name>, root/wds_vtab-<name> or root itself.

    Raises:
        DataNotFoundError: None of these folders holds the dataset.
        DataError: See `open_webdataset`.
    """
    folders = [root / name, root / f"wds_{name}", root / f"wds_vtab-{name}", root]
    for folder in folders:
        if (folder / "classnames.txt").is_file():
            return open_webdataset(folder, name=name, splits=("train", "test"))
    raise DataNotFoundError(
        f"dataset {name}: expected classnames.txt, train/ and test/ in one of "
        f"{', '.join(map(str, folders))}, got none; get it: the dataset "
        f"clip-benchmark/wds_vtab-{name} on Hugging Face, or any tars in that layout"
    )


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise DataNotFoundError(f"{path} is missing; a dataset in tars needs it")
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise DataError(
            f"{path}: expected a text of at most {MAX_TEXT_BYTES} bytes, got {path.stat().st_size}"
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8: {error}: save it as UTF-8") from error


def _read_class_names(path: Path) -> tuple[str, ...]:
    # not splitlines: it would also divide a name at U+2028, a form feed and the like
    names = [line.removesuffix("\r") for line in _read_text(path).split("\n")]
    while names and not names[-1].strip():
        names.pop()
    blank = next((number for number, name in enumerate(names, 1) if not name.strip()), None)
    if blank is not None:
        raise DataError(
            f"{path}, line {blank}: expected the name of a class, got a blank line: labels count "
            "lines, so name the class or remove the line"
        )
    return tuple(names)


def _index_split(root: Path, split: str, ignored: Counter[str]) -> TarSamples:
    num_shards = _read_text(root / split / SHARD_COUNT).strip()
    if not num_shards.isdecimal() or len(num_shards) > 18:
        raise DataError(f"{root / split / SHARD_COUNT}: expected a number, got {num_shards[:40]!r}")
    shards: list[str] = []
    while len(shards) < int(num_shards):
        shard = str(root / split / f"{len(shards)}.tar")
        if not os.path.isfile(shard):
            raise DataNotFoundError(
                f"{shard} is missing; nshards.txt says that there are {num_shards} tars"
            )
        shards.append(shard)
    tars = sum(1 for path in (root / split).iterdir() if path.suffix == ".tar")
    if tars > len(shards):
        ignored[f"tar in {split!r} beyond the number in nshards.txt"] += tars - len(shards)
    ids: list[str] = []
    labels: list[int] = []
    positions: list[tuple[int, int, int]] = []
    for number, shard in enumerate(shards):
        images, label_files = _index_shard(shard, ignored)
        unpaired = sorted(images.keys() ^ label_files.keys())
        if unpaired:
            lacking = "no .cls" if unpaired[0] in images else "no image"
            raise DataError(
                f"{shard}: sample {unpaired[0]!r} has {lacking} ({len(unpaired)} such sample(s))"
            )
        for key in sorted(images):
            ids.append(f"{split}/{number}/{key}")
            labels.append(_read_label(shard, key, label_files[key]))
            positions.append((number, images[key].offset, images[key].size))
    return TarSamples(
        tuple(shards),
        ids,
        np.asarray(labels, np.int64),
        np.asarray(positions, np.int64).reshape(-1, 3),
    )


def _index_shard(
    shard: str, ignored: Counter[str]
) -> tuple[dict[str, TarMember], dict[str, TarMember]]:
    """Return images and label files by key: the member's path up to the first dot of its name.

    Where a name has several dots and the image and the label agree up to the last one
    ("photo.of.cat.jpg", "photo.of.cat.cls"), that is the key.
    """
    images: dict[str, TarMember] = {}
    label_files: dict[str, TarMember] = {}
    dotted: dict[str, dict[str, TarMember]] = {"image": {}, "label": {}}
    for member in list_members(shard, ignored):
        path = member.name.removeprefix("./")
        folder, _, file = path.rpartition("/")
        stem, _, extension = file.partition(".")
        if not stem or any(part in SYSTEM_FOLDERS for part in folder.split("/")):
            ignored["hidden or in a system folder"] += 1
            continue
        key, _, last = path.rpartition(".")
        is_label = last == "cls"
        if not is_label and f".{last.lower()}" not in IMAGE_SUFFIXES:
            ignored[f"member .{extension}" if extension else "member without a suffix"] += 1
            continue
        if "." in extension:
            members = dotted["label" if is_label else "image"]
        else:
            members = label_files if is_label else images
        if key in members and not is_label:
            if last.lower() not in IMAGE_EXTENSIONS:
                ignored[f"member .{last}, a second image of its sample"] += 1
                continue
            first = members[key].name.rpartition(".")[2]
            if first.lower() not in IMAGE_EXTENSIONS:
                ignored[f"member .{first}, a second image of its sample"] += 1
                members.pop(key)
        if key in members:
            raise DataError(
                f"{shard}: sample {key!r} has two members of one kind, "
                f"{members[key].name} and {member.name}"
            )
        members[key] = member
    for key in dotted["image"].keys() & dotted["label"].keys():
        images[key] = dotted["image"].pop(key)
        label_files[key] = dotted["label"].pop(key)
    for member in (*dotted["image"].values(), *dotted["label"].values()):
        extension = member.name.rpartition("/")[2].partition(".")[2]
        ignored[f"member .{extension}"] += 1
    return images, label_files


def _read_label(shard: str, key: str, member: TarMember) -> int:
    """Return a class number, or -1 for no label."""
    text = read_bytes(shard, member.offset, min(member.size, MAX_LABEL_BYTES))
    if text.strip() in (b"", b"None"):
        return -1
    try:
        return int(text)
    except ValueError as error:
        raise DataError(
            f"{shard}: sample {key!r} has label {text[:40].decode(errors='replace')!r}, "
            "expected a class number"
        ) from error
