"""Named datasets that torchvision lists and checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from layercache.errors import DataError, DataNotFoundError, LayercacheError
from layercache.extraction.datasets.arrays import ArraySamples
from layercache.extraction.datasets.image_files import FileSamples, is_image
from layercache.extraction.datasets.in_memory import InMemoryDataset, common_classes
from layercache.extraction.datasets.registry import DATASETS, DOWNLOAD
from layercache.extraction.datasets.sources import torchvision_arrays
from layercache.extraction.datasets.subsampling import draw_stratified, permutation

Options = Mapping[str, Any]


@dataclass(frozen=True)
class FileDataset:
    """A torchvision class that lists image files."""

    class_name: str
    """Name of the class in torchvision.datasets."""
    train: Options
    """Its options for the split "train"."""
    test: Options
    """Its options for the split "test"."""
    files: Callable[[Any], tuple[list[Any], list[int]]] = lambda t: (t._image_files, t._labels)
    """Returns the paths and labels of a torchvision dataset."""
    classes: Callable[[Any], list[str]] = lambda t: t.classes
    """Returns the class names of a torchvision dataset."""

    def samples(self, dataset: Any, *, name: str, root: Path, split: str) -> FileSamples:
        """Return the samples of a torchvision dataset."""
        return FileSamples.from_paths(root, *self.files(dataset))


@dataclass(frozen=True)
class ArrayDataset:
    """A torchvision class that holds its images as an array."""

    class_name: str
    """Name of the class in torchvision.datasets."""
    train: Options
    """Its options for the split "train"."""
    test: Options
    """Its options for the split "test"."""
    read: Callable[[str, str], Any]
    """Returns the images, given the folder and the split; see torchvision_arrays."""
    labels: Callable[[Any], Any] = lambda t: t.targets
    """Returns the labels of a torchvision dataset."""
    classes: Callable[[Any], list[str]] = lambda t: t.classes
    """Returns the class names of a torchvision dataset."""

    def samples(self, dataset: Any, *, name: str, root: Path, split: str) -> ArraySamples:
        """Return the samples of a torchvision dataset; a missing label becomes -1."""
        labels = self.labels(dataset)
        if any(label is None for label in labels):
            labels = [-1 if label is None else label for label in labels]
        return ArraySamples(
            partial(self.read, str(root), split),
            labels=np.asarray(labels).astype(np.int64),
            prefix=split,
        )


def _pairs(dataset: Any) -> tuple[list[Any], list[int]]:
    pairs = dataset.samples if hasattr(dataset, "samples") else dataset._samples
    return [path for path, _ in pairs], [label for _, label in pairs]


def _gtsrb_files(dataset: Any) -> tuple[list[Any], list[int]]:
    """Return paths and labels; a training image's label is the number of its folder.

    torchvision would number the folders that it finds.
    """
    paths, labels = _pairs(dataset)
    if dataset._split == "train":
        labels = [int(Path(path).parent.name) for path in paths]
    return paths, labels


def _imagenet_classes(dataset: Any) -> list[str]:
    """Return class names that start with the WordNet ID.

    Several classes share their first name: "crane" is a bird and a machine.
    """
    return [
        f"{wnid} {', '.join(names)}"
        for wnid, names in zip(dataset.wnids, dataset.classes, strict=True)
    ]


BY_SPLIT: tuple[Options, Options] = ({"split": "train"}, {"split": "test"})
BY_FLAG: tuple[Options, Options] = ({"train": True}, {"train": False})

FER2013_CLASSES = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
GTSRB_CLASSES = [
    *("speed limit 20", "speed limit 30", "speed limit 50", "speed limit 60", "speed limit 70"),
    *("speed limit 80", "end of speed limit 80", "speed limit 100", "speed limit 120"),
    *("no overtaking", "no overtaking by trucks", "right of way at the next crossing"),
    *("priority road", "give way", "stop", "no vehicles", "no trucks", "no entry", "danger"),
    *("bend left", "bend right", "double bend", "uneven road", "slippery road"),
    *("road narrows on the right", "road works", "traffic lights", "pedestrians", "children"),
    *("bicycles", "ice or snow", "wild animals", "end of all limits", "turn right ahead"),
    *("turn left ahead", "ahead only", "ahead or right", "ahead or left", "keep right"),
    *("keep left", "roundabout", "end of no overtaking", "end of no overtaking by trucks"),
]
"""The 43 German traffic signs in the order of their numbers; torchvision has no names for them."""

TORCHVISION: dict[str, FileDataset | ArrayDataset] = {
    "flowers": FileDataset("Flowers102", *BY_SPLIT),
    "pets": FileDataset(
        "OxfordIIITPet",
        train={"split": "trainval"},
        test={"split": "test"},
        files=lambda t: (t._images, t._labels),
    ),
    "dtd": FileDataset("DTD", *BY_SPLIT),
    "gtsrb": FileDataset("GTSRB", *BY_SPLIT, files=_gtsrb_files, classes=lambda _: GTSRB_CLASSES),
    "country211": FileDataset("Country211", *BY_SPLIT, files=_pairs),
    "fgvc_aircraft": FileDataset("FGVCAircraft", *BY_SPLIT),
    "cars": FileDataset("StanfordCars", *BY_SPLIT, files=_pairs),
    "imagenet": FileDataset(
        "ImageNet",
        train={"split": "train"},
        test={"split": "val"},
        files=_pairs,
        classes=_imagenet_classes,
    ),
    "cifar10": ArrayDataset("CIFAR10", *BY_FLAG, read=torchvision_arrays.cifar10),
    "cifar100": ArrayDataset("CIFAR100", *BY_FLAG, read=torchvision_arrays.cifar100),
    "fashion_mnist": ArrayDataset("FashionMNIST", *BY_FLAG, read=torchvision_arrays.fashion_mnist),
    "svhn": ArrayDataset(
        "SVHN",
        *BY_SPLIT,
        read=torchvision_arrays.svhn,
        labels=lambda t: t.labels,
        classes=lambda _: list("0123456789"),
    ),
    "stl10": ArrayDataset(
        "STL10", *BY_SPLIT, read=torchvision_arrays.stl10, labels=lambda t: t.labels
    ),
    "fer2013": ArrayDataset(
        "FER2013",
        *BY_SPLIT,
        read=torchvision_arrays.fer2013,
        labels=lambda t: [label for _, label in t._samples],
        classes=lambda _: FER2013_CLASSES,
    ),
    "pcam": ArrayDataset(
        "PCAM",
        *BY_SPLIT,
        read=torchvision_arrays.pcam,
        labels=lambda t: torchvision_arrays.pcam_labels(t.root, t._split),
        classes=lambda _: ["normal", "tumour"],
    ),
}
"""Name -> torchvision class, for the datasets that come with a train and a test split."""


def open_torchvision(name: str, root: Path) -> InMemoryDataset:
    """Open the dataset `name` below `root`.

    Args:
        name: A key of TORCHVISION, "caltech101" or "eurosat".
        root: Folder that torchvision reads.

    Raises:
        DataNotFoundError: Files are missing or damaged.
        DataError: The files are not a usable dataset.
        MissingExtraError: An optional package is not installed.
    """
    if name == "caltech101":
        return _open_caltech101(root)
    if name == "eurosat":
        return _open_eurosat(root)
    if name == "pcam":
        torchvision_arrays.import_h5py()  # torchvision's error would look like a missing file
    if name in ("imagenet", "svhn") and (root / name).is_dir():
        root /= name  # torchvision reads these two from root itself
    entry = TORCHVISION[name]
    datasets = {
        split: construct(name, entry.class_name, root, **options)
        for split, options in (("train", entry.train), ("test", entry.test))
    }
    classes = common_classes(
        {split: tuple(entry.classes(dataset)) for split, dataset in datasets.items()},
        where=f"dataset {name} in {root}",
        remedy="some of its files are missing",
    )
    samples = {
        split: entry.samples(dataset, name=name, root=root, split=split)
        for split, dataset in datasets.items()
    }
    notes = tuple(
        f"the {split} split has no labels; {DATASETS[name].how_to_get}"
        for split, s in samples.items()
        if (s.labels < 0).all()
    )
    return InMemoryDataset(name=name, classes=classes, samples=samples, notes=notes)


def _open_caltech101(root: Path) -> InMemoryDataset:
    """Draw 30 training images of every class and test on the rest, the usual protocol.

    102 classes with the background, as in the paper.
    """
    below = "caltech101/101_ObjectCategories"
    # torchvision would make an empty folder
    if not (root / below).is_dir():
        raise _not_found("caltech101", root, f"no folder {below}")
    construct("caltech101", "Caltech101", root)
    samples, classes = _scan_class_folders(root, below)
    counts = np.bincount(samples.labels)
    small = [name for name, n in zip(classes, counts, strict=True) if n <= 30]
    if small:
        raise DataError(
            f"dataset caltech101 in {root}: expected more than 30 images of every class, 30 of "
            f"them for training; class {small[0]!r} has fewer"
        )
    order = permutation(len(samples.ids), seed=0, key="caltech101")
    per_class = [order[samples.labels[order] == c][:30] for c in range(len(classes))]
    train = np.sort(np.concatenate(per_class))
    test = np.setdiff1d(np.arange(len(samples.ids)), train)
    return InMemoryDataset(
        name="caltech101",
        classes=classes,
        samples={"train": samples.take(train), "test": samples.take(test)},
    )


def _open_eurosat(root: Path) -> InMemoryDataset:
    """Draw 60 % for training and 20 % for testing class by class: the paper's sizes."""
    dataset = construct("eurosat", "EuroSAT", root)
    samples = FileSamples.from_paths(root, *_pairs(dataset))
    n = len(samples.ids)
    train = draw_stratified(samples.labels, n * 6 // 10, seed=0, key="eurosat train")
    rest = np.setdiff1d(np.arange(n), train)
    test = rest[draw_stratified(samples.labels[rest], n * 2 // 10, seed=0, key="eurosat test")]
    return InMemoryDataset(
        name="eurosat",
        classes=tuple(dataset.classes),
        samples={"train": samples.take(train), "test": samples.take(test)},
    )


def construct(name: str, class_name: str, root: Path, **options: Any) -> Any:
    """Return an instance of a torchvision class.

    Args:
        name: Name of the dataset, for errors.
        class_name: Name of the class in torchvision.datasets.
        root: Folder that torchvision reads.
        **options: Passed to the class.

    Raises:
        DataNotFoundError: Files are missing or damaged.
    """
    import torchvision

    try:
        return getattr(torchvision.datasets, class_name)(str(root), **options)
    except LayercacheError:
        raise
    except (RuntimeError, OSError) as error:
        message = " ".join(str(error).split())
        hint = " You can use download=True to download it"
        raise _not_found(name, root, message.removesuffix(hint)) from error


def _not_found(name: str, root: Path, reason: str) -> DataNotFoundError:
    how_to_get = DATASETS[name].how_to_get
    remedy = "" if how_to_get == DOWNLOAD else f". Give its data root, or get it: {how_to_get}"
    return DataNotFoundError(
        f"dataset {name}: expected a complete copy below {root}, got none ({reason}){remedy}"
    )


def _scan_class_folders(root: Path, below: str) -> tuple[FileSamples, tuple[str, ...]]:
    """Return the images of the class folders in root/below, and the sorted class names."""
    folders = [p for p in (root / below).iterdir() if p.is_dir() and not p.name.startswith(".")]
    ids: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(sorted(folders)):
        names = sorted(path.name for path in folder.iterdir() if is_image(path.name))
        ids += [f"{below}/{folder.name}/{name}" for name in names]
        labels += [label] * len(names)
    classes = tuple(sorted(folder.name for folder in folders))
    return FileSamples(str(root), ids, np.asarray(labels, np.int64)), classes
