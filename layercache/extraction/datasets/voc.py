"""PASCAL VOC 2007 in three forms: an image's first object, all its objects, and every object cut out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from layercache.errors import DataError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.datasets.in_memory import InMemoryDataset
from layercache.extraction.datasets.torchvision_datasets import made_by, relative

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

Box = tuple[int, int, int, int]
"""Left, top, right, bottom as the annotation has them."""


@dataclass(frozen=True)
class CropSamples:
    """Boxes cut out of image files; ids are "<path>#<object's place in the annotation>"."""

    files: FileSamples
    """The image of each box, N of them, repeated where an image has several; its labels are the boxes'."""
    boxes: np.ndarray[Any, Any]
    """int64 (N, 4)."""
    places: np.ndarray[Any, Any]
    """int64 (N,): which object of its image."""

    @cached_property
    def ids(self) -> list[str]:
        """Path, hash sign, place."""
        return [f"{i}#{p}" for i, p in zip(self.files.ids, self.places.tolist(), strict=True)]

    @property
    def labels(self) -> np.ndarray[Any, Any]:
        """int64 (N,)."""
        return self.files.labels

    @cached_property
    def content(self) -> str:
        """The images' digest with the boxes'."""
        kind, digest = self.files.content.split(":")
        return f"{kind}:{hashlib.sha256(digest.encode() + self.boxes.astype('<i8').tobytes()).hexdigest()}"

    def load(self, row: int) -> Image.Image:
        """The box's part of its image."""
        return self.files.load(row).crop(tuple(self.boxes[row].tolist()))

    def take(self, rows: np.ndarray[Any, Any]) -> Self:
        """Only these rows, in this order."""
        return type(self)(self.files.take(rows), self.boxes[rows], self.places[rows])


def voc2007(root: Path, *, download: bool = False) -> InMemoryDataset:
    """Parts trainval and test; an image's class is that of its first annotated object."""
    return _labelled(
        "voc2007",
        {
            s: _first(root, a)
            for s, a in _annotations("voc2007", root, "trainval", download=download).items()
        },
    )


def voc2007_multilabel(root: Path, *, download: bool = False) -> InMemoryDataset:
    """Parts trainval and test; all classes of an image's objects, difficult ones included."""
    name = "voc2007_multilabel"
    return _labelled(
        name,
        {
            s: _all(root, a)
            for s, a in _annotations(name, root, "trainval", download=download).items()
        },
        multi_label=True,
    )


def voc2007_crops(root: Path, *, download: bool = False) -> InMemoryDataset:
    """Parts train and test; one sample per annotated object, difficult ones included: what the paper used (7844 to train on)."""
    return _labelled(
        "voc2007_crops",
        {
            s: _each(root, a)
            for s, a in _annotations("voc2007_crops", root, "train", download=download).items()
        },
    )


def _labelled(
    name: str, samples: dict[str, Samples], *, multi_label: bool = False
) -> InMemoryDataset:
    return InMemoryDataset(name=name, classes=CLASSES, samples=samples, multi_label=multi_label)


Objects = list[tuple[int, Box]]
Annotated = list[tuple[str, Objects]]
"""Image path and its objects, (class, box) each."""


def _annotations(name: str, root: Path, train: str, *, download: bool) -> dict[str, Annotated]:
    found = {}
    for split, part in (("train", train), ("test", "test")):
        made = made_by(name, "VOCDetection", root, download=download, year="2007", image_set=part)
        found[split] = [
            (image, _objects(xml)) for image, xml in zip(made.images, made.annotations, strict=True)
        ]
    return found


def _objects(path: str) -> Objects:
    try:
        tree = ElementTree.parse(path)
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"data set voc2007: cannot read the annotation {path}: {error}") from error
    found = []
    for element in tree.iter("object"):
        name, box = element.findtext("name"), element.find("bndbox")
        if name not in CLASSES or box is None:
            raise DataError(
                f"data set voc2007: annotation {path} has an object {name!r}, expected one of the {len(CLASSES)} classes with its box"
            )
        try:
            left, top, right, bottom = (
                int(float(box.findtext(side, ""))) for side in ("xmin", "ymin", "xmax", "ymax")
            )
        except ValueError as error:
            raise DataError(
                f"data set voc2007: annotation {path} has an object {name!r} whose box is no four numbers"
            ) from error
        found.append((CLASSES.index(name), (left, top, right, bottom)))
    if not found:
        raise DataError(f"data set voc2007: annotation {path} has no object")
    return found


def _first(root: Path, annotated: Annotated) -> FileSamples:
    return relative(
        root, [image for image, _ in annotated], [objects[0][0] for _, objects in annotated]
    )


def _all(root: Path, annotated: Annotated) -> FileSamples:
    files = _first(root, annotated)
    labels = np.zeros((len(annotated), len(CLASSES)), np.uint8)
    for row, (_, objects) in enumerate(annotated):
        labels[row, [c for c, _ in objects]] = 1
    return FileSamples(files.root, files.ids, labels)


def _each(root: Path, annotated: Annotated) -> CropSamples:
    flat = [
        (image, place, c, box)
        for image, objects in annotated
        for place, (c, box) in enumerate(objects)
    ]
    files = relative(root, [image for image, _, _, _ in flat], [c for _, _, c, _ in flat])
    return CropSamples(
        files,
        np.asarray([box for *_, box in flat], np.int64).reshape(-1, 4),
        np.asarray([place for _, place, _, _ in flat], np.int64),
    )
