"""PASCAL VOC 2007 in three forms: first object of an image, all objects, objects cut out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from layercache.errors import DataError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.datasets.in_memory import InMemoryDataset
from layercache.extraction.datasets.sources.torchvision_datasets import construct

VOC2007 = ("voc2007", "voc2007_multilabel", "voc2007_crops")
"""Names of the three forms."""

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


class AnnotatedObject(NamedTuple):
    """One object of an image."""

    label: int
    """Class number."""
    box: tuple[int, ...]
    """Left, top, right, bottom as in the annotation."""


class AnnotatedImage(NamedTuple):
    """An image and its objects."""

    path: str
    objects: list[AnnotatedObject]


@dataclass(frozen=True)
class CropSamples:
    """N boxes cut out of image files; ids are "<path>#<index of the object in its image>"."""

    files: FileSamples
    """The image of each box, repeated where an image has several; its labels are the boxes'."""
    boxes: np.ndarray[Any, Any]
    """int64 (N, 4): left, top, right, bottom."""
    object_indices: np.ndarray[Any, Any]
    """int64 (N,): index of the object in its image."""

    @cached_property
    def ids(self) -> list[str]:
        """Path of the image, "#", index of the object."""
        indices = self.object_indices.tolist()
        return [f"{path}#{index}" for path, index in zip(self.files.ids, indices, strict=True)]

    @property
    def labels(self) -> np.ndarray[Any, Any]:
        """int64 (N,)."""
        return self.files.labels

    @cached_property
    def content_digest(self) -> str:
        """Digest of the images' digest and the boxes."""
        kind, images = self.files.content_digest.split(":")
        digest = hashlib.sha256(images.encode() + self.boxes.astype("<i8").tobytes())
        return f"{kind}:{digest.hexdigest()}"

    def load(self, row: int) -> Image.Image:
        """Return box `row`, cut out of its image."""
        return self.files.load(row).crop(tuple(self.boxes[row].tolist()))

    def take(self, rows: np.ndarray[Any, Any]) -> Self:
        """Return only the given rows, in the given order."""
        return type(self)(self.files.take(rows), self.boxes[rows], self.object_indices[rows])


def open_voc2007(name: str, root: Path) -> InMemoryDataset:
    """Open one of the three forms of VOC 2007.

    Args:
        name: "voc2007" has the class of an image's first annotated object, "voc2007_multilabel"
            the classes of all objects (both: official trainval and test), "voc2007_crops" one
            sample per object, as in the paper (7844 to train on; official train and test).
            Difficult objects are included.
        root: Folder that torchvision reads.

    Raises:
        DataNotFoundError: Files are missing or damaged.
        DataError: An annotation cannot be used.
    """
    train = "train" if name == "voc2007_crops" else "trainval"
    samples: dict[str, Samples] = {}
    for split, image_set in (("train", train), ("test", "test")):
        dataset = construct(name, "VOCDetection", root, year="2007", image_set=image_set)
        images = [
            AnnotatedImage(path, _read_objects(annotation))
            for path, annotation in zip(dataset.images, dataset.annotations, strict=True)
        ]
        if name == "voc2007_crops":
            samples[split] = _crops(root, images)
        else:
            samples[split] = _whole_images(root, images, multi_label=name == "voc2007_multilabel")
    return InMemoryDataset(
        name=name, classes=CLASSES, samples=samples, multi_label=name == "voc2007_multilabel"
    )


def _read_objects(path: str) -> list[AnnotatedObject]:
    where = f"dataset voc2007: annotation {path}"
    try:
        tree = ElementTree.parse(path)
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{where} cannot be read: {error}") from error
    objects = []
    for element in tree.iter("object"):
        name, box = element.findtext("name"), element.find("bndbox")
        if name not in CLASSES or box is None:
            raise DataError(
                f"{where}: expected objects of the {len(CLASSES)} classes with a box, got {name!r}"
            )
        sides = [box.findtext(side, "") for side in ("xmin", "ymin", "xmax", "ymax")]
        try:
            corners = tuple(int(float(side)) for side in sides)
        except ValueError as error:
            raise DataError(
                f"{where}: expected a box of four numbers for the object {name!r}, got {sides}"
            ) from error
        objects.append(AnnotatedObject(CLASSES.index(name), corners))
    if not objects:
        raise DataError(f"{where}: expected at least one object, got none")
    return objects


def _whole_images(root: Path, images: list[AnnotatedImage], *, multi_label: bool) -> FileSamples:
    paths = [image.path for image in images]
    files = FileSamples.from_paths(root, paths, [image.objects[0].label for image in images])
    if not multi_label:
        return files
    labels = np.zeros((len(images), len(CLASSES)), np.uint8)
    for row, image in enumerate(images):
        labels[row, [annotated.label for annotated in image.objects]] = 1
    return FileSamples(files.root, files.ids, labels)


def _crops(root: Path, images: list[AnnotatedImage]) -> CropSamples:
    flat = [
        (image.path, index, annotated)
        for image in images
        for index, annotated in enumerate(image.objects)
    ]
    return CropSamples(
        FileSamples.from_paths(
            root, [path for path, _, _ in flat], [annotated.label for _, _, annotated in flat]
        ),
        np.asarray([annotated.box for _, _, annotated in flat], np.int64).reshape(-1, 4),
        np.asarray([index for _, index, _ in flat], np.int64),
    )
