"""`wds:PATH`: local tars in the layout of the clip-benchmark collection.

    ROOT/classnames.txt                    a class name per line, in label order
    ROOT/{train,test}/nshards.txt          the number of tars, n
    ROOT/{train,test}/{0..n-1}.tar         <key>.jpg (or jpeg, png, webp) and <key>.cls, the label's number

A sample's id is "<split>/<tar's number>/<key>". Tars are indexed once, by their headers; an image is then one pread.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from layercache.errors import DataError, DataNotFoundError
from layercache.extraction.datasets import tar_index
from layercache.extraction.datasets.image_files import HASHED_IN_FULL
from layercache.extraction.datasets.in_memory import InMemoryDataset, safe_name

IMAGES = ("jpg", "jpeg", "png", "webp")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TarSamples:
    """Images in tars, N of them."""

    shards: tuple[str, ...]
    """Paths of the tars."""
    ids: list[str]
    """Split, tar and key."""
    labels: Array
    """int64 (N,)."""
    places: Array
    """int64 (N, 3): tar's place in `shards`, offset, size."""

    @cached_property
    def content(self) -> str:
        """Digest of the images' bytes, or of their sizes above HASHED_IN_FULL."""
        digest = hashlib.sha256(self.places[:, 2].astype("<i8").tobytes())
        if int(self.places[:, 2].sum()) > HASHED_IN_FULL:
            return f"sizes:{digest.hexdigest()}"
        for row in range(len(self.ids)):
            digest.update(self.bytes(row))
        return f"bytes:{digest.hexdigest()}"

    def bytes(self, row: int) -> bytes:
        """The image file."""
        shard, offset, size = self.places[row].tolist()
        return tar_index.read(self.shards[shard], offset, size)

    def load(self, row: int) -> Image.Image:
        """Image `row`."""
        return Image.open(io.BytesIO(self.bytes(row)))

    def take(self, rows: Array) -> Self:
        """Only these rows, in this order."""
        return type(self)(
            self.shards, [self.ids[i] for i in rows], self.labels[rows], self.places[rows]
        )


def webdataset(path: str | os.PathLike[str], *, name: str | None = None) -> InMemoryDataset:
    """The data set below `path`. Raises DataNotFoundError, DataError."""
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        raise DataNotFoundError(f"wds:{path}: there is no folder {root}")
    splits = [split for split in ("train", "test") if (root / split).is_dir()]
    if not splits:
        raise DataNotFoundError(
            f"{root}: expected train/ or test/ with 0.tar, 1.tar .. and nshards.txt, found neither"
        )
    tar_index.descriptor.cache_clear()  # a tar may have been replaced since this process last looked
    classes = tuple(_read(root / "classnames.txt").splitlines())
    samples = {split: _scan(root, split) for split in splits}
    return InMemoryDataset(
        name=name or safe_name(root.resolve().name), classes=classes, samples=samples
    )


def named(name: str, root: Path) -> InMemoryDataset:
    """A data set of the collection: in root/<name>, root/wds_<name>, root/wds_vtab-<name>, or in root itself. Raises DataNotFoundError."""
    places = [root / name, root / f"wds_{name}", root / f"wds_vtab-{name}", root]
    found = next((p for p in places if (p / "classnames.txt").is_file()), None)
    if found is None:
        looked = ", ".join(map(str, places))
        raise DataNotFoundError(
            f"data set {name}: looked for classnames.txt, train/ and test/ in {looked}, found none; "
            f"get it: the data set clip-benchmark/wds_vtab-{name} on Hugging Face, or any tars in that layout"
        )
    return webdataset(found, name=name)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path} is missing; a data set in tars needs it") from error


def _scan(root: Path, split: str) -> TarSamples:
    text = _read(root / split / "nshards.txt").strip()
    if not text.isdecimal():
        raise DataError(f"{root / split / 'nshards.txt'}: expected a number, found {text!r}")
    shards = tuple(str(root / split / f"{i}.tar") for i in range(int(text)))
    for shard in shards:
        if not os.path.isfile(shard):
            raise DataNotFoundError(
                f"{shard} is missing; nshards.txt says that there are {text} tars"
            )
    ids: list[str] = []
    labels: list[int] = []
    places: list[tuple[int, int, int]] = []
    for number, shard in enumerate(shards):
        images, classes = _index(shard)
        lone = sorted(images.keys() ^ classes.keys())
        if lone:
            raise DataError(
                f"{shard}: sample {lone[0]!r} has {'no .cls' if lone[0] in images else 'no image'} ({len(lone)} such sample(s))"
            )
        for key in sorted(images):
            ids.append(f"{split}/{number}/{key}")
            labels.append(
                _label(shard, key, tar_index.read(shard, classes[key].offset, classes[key].size))
            )
            places.append((number, images[key].offset, images[key].size))
    return TarSamples(
        shards, ids, np.asarray(labels, np.int64), np.asarray(places, np.int64).reshape(-1, 3)
    )


def _index(shard: str) -> tuple[dict[str, tar_index.Member], dict[str, tar_index.Member]]:
    """Images and labels by key: the member's name up to the first dot of its last part."""
    images: dict[str, tar_index.Member] = {}
    classes: dict[str, tar_index.Member] = {}
    for member in tar_index.members(shard):
        folder, slash, file = member.name.removeprefix("./").rpartition("/")
        stem, _, kind = file.partition(".")
        into = images if kind.lower() in IMAGES else classes if kind == "cls" else None
        key = f"{folder}{slash}{stem}"
        if into is None or not stem:
            continue
        if key in into:
            raise DataError(
                f"{shard}: sample {key!r} has two members of one kind, {into[key].name} and {member.name}"
            )
        into[key] = member
    return images, classes


def _label(shard: str, key: str, text: bytes) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise DataError(
            f"{shard}: sample {key!r} has label {text[:40].decode(errors='replace')!r}, expected a class number"
        ) from error
