"""`wds:PATH`: local tars in the layout of the clip-benchmark collection.

    ROOT/classnames.txt                    one class name per line, in label order
    ROOT/{train,test}/nshards.txt          the number of tars, n
    ROOT/{train,test}/{0..n-1}.tar         <key>.jpg (or jpeg, png, webp) and <key>.cls, the label

A sample's id is "<split>/<tar number>/<key>". Tars are indexed once, by their headers; an image is
then a single pread.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from layercache.errors import DataError, DataNotFoundError
from layercache.extraction.datasets.image_files import MAX_HASHED_BYTES
from layercache.extraction.datasets.in_memory import InMemoryDataset, safe_name
from layercache.extraction.datasets.sources.tar_index import (
    Member,
    list_members,
    open_tar,
    read_bytes,
)

VTAB = ("resisc45", "dmlab", "diabetic_retinopathy")
"""Named datasets that the clip-benchmark collection provides as tars."""
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
"""Extensions of a tar's images."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TarSamples:
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
    def content_digest(self) -> str:
        """Digest of the images' bytes, or of their sizes."""
        sizes = self.positions[:, 2]
        digest = hashlib.sha256(sizes.astype("<i8").tobytes())
        if int(sizes.sum()) > self.max_hashed_bytes:
            return f"sizes:{digest.hexdigest()}"
        for row in range(len(self.ids)):
            digest.update(self.read_bytes(row))
        return f"bytes:{digest.hexdigest()}"

    def read_bytes(self, row: int) -> bytes:
        """Return the encoded image `row`."""
        shard, offset, size = self.positions[row].tolist()
        return read_bytes(self.shards[shard], offset, size)

    def load(self, row: int) -> Image.Image:
        """Return image `row`."""
        return Image.open(io.BytesIO(self.read_bytes(row)))

    def take(self, rows: Array) -> Self:
        """Return only the given rows, in the given order."""
        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            labels=self.labels[rows],
            positions=self.positions[rows],
        )


def open_webdataset(path: str | os.PathLike[str], *, name: str | None = None) -> InMemoryDataset:
    """Open the dataset below `path`.

    Args:
        path: Folder with `classnames.txt`, `train/` and `test/`.
        name: Name in caches and tables; by default the folder's.

    Raises:
        DataNotFoundError: A file of the layout is missing.
        DataError: A tar is damaged, or its members are not pairs of an image and a label.
    """
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        raise DataNotFoundError(f"wds:{path}: there is no folder {root}")
    splits = [split for split in ("train", "test") if (root / split).is_dir()]
    if not splits:
        raise DataNotFoundError(
            f"{root}: expected train/ or test/ with 0.tar, 1.tar .. and nshards.txt, got neither"
        )
    open_tar.cache_clear()  # a tar may have been replaced since this process last read it
    classes = tuple(_read_text(root / "classnames.txt").splitlines())
    return InMemoryDataset(
        name=name or safe_name(root.resolve().name),
        classes=classes,
        samples={split: _index_split(root, split) for split in splits},
    )


def open_vtab(name: str, root: Path) -> InMemoryDataset:
    """Open a dataset of VTAB in root/<name>, root/wds_<name>, root/wds_vtab-<name> or root itself.

    Raises:
        DataNotFoundError: None of these folders holds the dataset.
        DataError: See `open_webdataset`.
    """
    folders = [root / name, root / f"wds_{name}", root / f"wds_vtab-{name}", root]
    for folder in folders:
        if (folder / "classnames.txt").is_file():
            return open_webdataset(folder, name=name)
    raise DataNotFoundError(
        f"dataset {name}: expected classnames.txt, train/ and test/ in one of "
        f"{', '.join(map(str, folders))}, got none; get it: the dataset "
        f"clip-benchmark/wds_vtab-{name} on Hugging Face, or any tars in that layout"
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path} is missing; a dataset in tars needs it") from error


def _index_split(root: Path, split: str) -> TarSamples:
    num_shards = _read_text(root / split / "nshards.txt").strip()
    if not num_shards.isdecimal():
        raise DataError(f"{root / split / 'nshards.txt'}: expected a number, got {num_shards!r}")
    shards = tuple(str(root / split / f"{i}.tar") for i in range(int(num_shards)))
    for shard in shards:
        if not os.path.isfile(shard):
            raise DataNotFoundError(
                f"{shard} is missing; nshards.txt says that there are {num_shards} tars"
            )
    ids: list[str] = []
    labels: list[int] = []
    positions: list[tuple[int, int, int]] = []
    for number, shard in enumerate(shards):
        images, label_files = _index_shard(shard)
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
        shards, ids, np.asarray(labels, np.int64), np.asarray(positions, np.int64).reshape(-1, 3)
    )


def _index_shard(shard: str) -> tuple[dict[str, Member], dict[str, Member]]:
    """Return images and label files by key: the member's path up to the first dot of its name."""
    images: dict[str, Member] = {}
    label_files: dict[str, Member] = {}
    for member in list_members(shard):
        folder, slash, file = member.name.removeprefix("./").rpartition("/")
        stem, _, extension = file.partition(".")
        if extension.lower() in IMAGE_EXTENSIONS:
            members = images
        elif extension == "cls":
            members = label_files
        else:
            continue
        key = f"{folder}{slash}{stem}"
        if not stem:
            continue
        if key in members:
            raise DataError(
                f"{shard}: sample {key!r} has two members of one kind, "
                f"{members[key].name} and {member.name}"
            )
        members[key] = member
    return images, label_files


def _read_label(shard: str, key: str, member: Member) -> int:
    text = read_bytes(shard, member.offset, member.size)
    try:
        return int(text)
    except ValueError as error:
        raise DataError(
            f"{shard}: sample {key!r} has label {text[:40].decode(errors='replace')!r}, "
            "expected a class number"
        ) from error
