"""Data sets that torchvision reads, from the folder that it reads them from; torchvision checks, lists and downloads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from layercache.errors import DataError, DataNotFoundError, LayercacheError
from layercache.extraction.datasets import raw_arrays, subsampling
from layercache.extraction.datasets.arrays import ArraySamples
from layercache.extraction.datasets.gtsrb_classes import SIGNS
from layercache.extraction.datasets.image_files import FileSamples, is_image
from layercache.extraction.datasets.in_memory import InMemoryDataset
from layercache.extraction.datasets.listing import DATASETS, DOWNLOAD

Options = Mapping[str, Any]


@dataclass(frozen=True)
class FileDataset:
    """A data set of image files that torchvision lists."""

    kind: str
    """torchvision's class."""
    train: Options
    """Its options for our "train"."""
    test: Options
    """Its options for our "test"."""
    files: Callable[[Any], tuple[list[Any], list[int]]] = lambda made: (
        made._image_files,
        made._labels,
    )
    """Paths and labels out of torchvision's object."""
    classes: Callable[[Any], list[str]] = lambda made: made.classes
    """Class names out of torchvision's object."""


@dataclass(frozen=True)
class ArrayDataset:
    """A data set that torchvision holds as arrays; `raw` has a function of the same name."""

    kind: str
    """torchvision's class."""
    train: Options
    """Its options for our "train"."""
    test: Options
    """Its options for our "test"."""
    labels: Callable[[Any], Any] = lambda made: made.targets
    """Labels out of torchvision's object."""
    classes: Callable[[Any], list[str]] = lambda made: made.classes
    """Class names out of torchvision's object."""


def _pairs(made: Any) -> tuple[list[Any], list[int]]:
    samples = made.samples if hasattr(made, "samples") else made._samples
    return [path for path, _ in samples], [label for _, label in samples]


def _by_sign_number(made: Any) -> tuple[list[Any], list[int]]:
    """A training image's class is its folder's number; torchvision would count the folders that it finds."""
    paths, labels = _pairs(made)
    return paths, [int(Path(p).parent.name) for p in paths] if made._split == "train" else labels


SPLIT: tuple[Options, Options] = ({"split": "train"}, {"split": "test"})
FLAG: tuple[Options, Options] = ({"train": True}, {"train": False})
DIGITS = list("0123456789")
FACES = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]

READERS: dict[str, FileDataset | ArrayDataset] = {
    "flowers": FileDataset("Flowers102", *SPLIT),
    "pets": FileDataset(
        "OxfordIIITPet",
        {"split": "trainval"},
        {"split": "test"},
        files=lambda made: (made._images, made._labels),
    ),
    "dtd": FileDataset("DTD", *SPLIT),
    "gtsrb": FileDataset("GTSRB", *SPLIT, files=_by_sign_number, classes=lambda _: list(SIGNS)),
    "country211": FileDataset("Country211", *SPLIT, files=_pairs),
    "fgvc_aircraft": FileDataset("FGVCAircraft", *SPLIT),
    "cars": FileDataset("StanfordCars", *SPLIT, files=_pairs),
    # several classes of ImageNet share their first name ("crane" is a bird and a machine): the WordNet number tells them apart
    "imagenet": FileDataset(
        "ImageNet",
        {"split": "train"},
        {"split": "val"},
        files=_pairs,
        classes=lambda made: [
            f"{number} {', '.join(names)}"
            for number, names in zip(made.wnids, made.classes, strict=True)
        ],
    ),
    "cifar10": ArrayDataset("CIFAR10", *FLAG),
    "cifar100": ArrayDataset("CIFAR100", *FLAG),
    "fashion_mnist": ArrayDataset("FashionMNIST", *FLAG),
    "svhn": ArrayDataset("SVHN", *SPLIT, labels=lambda made: made.labels, classes=lambda _: DIGITS),
    "stl10": ArrayDataset("STL10", *SPLIT, labels=lambda made: made.labels),
    "fer2013": ArrayDataset(
        "FER2013",
        *SPLIT,
        labels=lambda made: [label for _, label in made._samples],
        classes=lambda _: FACES,
    ),
    "pcam": ArrayDataset(
        "PCAM",
        *SPLIT,
        labels=lambda made: raw_arrays.pcam_labels(made.root, made._split),
        classes=lambda _: ["normal", "tumour"],
    ),
}
"""Data sets that come with a split."""


def read(name: str, root: Path, *, download: bool = False) -> InMemoryDataset:
    """The data set `name` of READERS below `root`. Raises DataNotFoundError, DataError, MissingExtraError."""
    if name == "pcam":
        raw_arrays.h5py()  # torchvision's own complaint would look like a missing file
    root = own_folder(name, root)
    reader = READERS[name]
    made = {"train": made_by(name, reader.kind, root, download=download, **reader.train)}
    made["test"] = made_by(name, reader.kind, root, download=download, **reader.test)
    classes = {split: tuple(reader.classes(m)) for split, m in made.items()}
    if classes["train"] != classes["test"]:
        differ = sorted(set(classes["train"]) ^ set(classes["test"]))
        raise DataError(
            f"data set {name} in {root}: train and test have different classes, e.g. {differ[:3]}: a part of its files is missing"
        )
    samples: dict[str, FileSamples | ArraySamples] = {}
    for split, m in made.items():
        if isinstance(reader, FileDataset):
            samples[split] = relative(root, *reader.files(m))
        else:
            samples[split] = ArraySamples(
                partial(getattr(raw_arrays, name), str(root), split),
                labels=_numbers(name, reader.labels(m)),
                prefix=split,
            )
    return InMemoryDataset(name=name, classes=classes["train"], samples=samples)


def caltech101(root: Path, *, download: bool = False) -> InMemoryDataset:
    """30 images of every class to train on, drawn, the rest to test: the usual protocol. 102 classes with the background, as in the paper."""
    if (
        not download and not (root / "caltech101/101_ObjectCategories").is_dir()
    ):  # torchvision would make an empty folder
        raise _not_found("caltech101", root, "no folder caltech101/101_ObjectCategories")
    made_by("caltech101", "Caltech101", root, download=download)
    pool = _folder_pool(root, "caltech101/101_ObjectCategories")
    names = sorted({i.split("/")[2] for i in pool.ids})
    few = [c for c, n in zip(names, np.bincount(pool.labels), strict=True) if n <= 30]
    if few:
        raise DataError(
            f"data set caltech101 in {root}: class {few[0]!r} has no more than the 30 images that the training part takes"
        )
    order = subsampling.shuffled(len(pool.ids), seed=0, key="caltech101")
    train = np.sort(
        np.concatenate([order[pool.labels[order] == c][:30] for c in range(len(names))])
    )
    test = np.setdiff1d(np.arange(len(pool.ids)), train)
    return InMemoryDataset(
        name="caltech101",
        classes=tuple(names),
        samples={"train": pool.take(train), "test": pool.take(test)},
    )


def eurosat(root: Path, *, download: bool = False) -> InMemoryDataset:
    """60 % to train on and 20 % to test, drawn class by class: the paper's sizes."""
    made = made_by("eurosat", "EuroSAT", root, download=download)
    pool = relative(root, *_pairs(made))
    n = len(pool.ids)
    train = subsampling.stratified(pool.labels, n * 6 // 10, seed=0, key="eurosat train")
    rest = np.setdiff1d(np.arange(n), train)
    test = rest[subsampling.stratified(pool.labels[rest], n * 2 // 10, seed=0, key="eurosat test")]
    return InMemoryDataset(
        name="eurosat",
        classes=tuple(made.classes),
        samples={"train": pool.take(train), "test": pool.take(test)},
    )


def made_by(name: str, kind: str, root: Path, *, download: bool = False, **options: Any) -> Any:
    """The object of torchvision's class `kind`. Raises DataNotFoundError when its files are not there, or not whole."""
    import torchvision

    if download and DATASETS[name].get != DOWNLOAD:
        raise _not_found(name, root, "torchvision cannot download it")
    try:
        return getattr(torchvision.datasets, kind)(
            str(root), **options, **({"download": True} if download else {})
        )
    except LayercacheError:
        raise
    except (RuntimeError, OSError) as error:
        raise _not_found(
            name,
            root,
            " ".join(str(error).split()).removesuffix(" You can use download=True to download it"),
        ) from error


def own_folder(name: str, root: Path) -> Path:
    """`root`, or for sets that torchvision reads from the very root, root/<name> if there is such a folder."""
    return root / name if name in ("imagenet", "svhn") and (root / name).is_dir() else root


def relative(root: Path, paths: list[Any], labels: list[int]) -> FileSamples:
    """Samples from paths below root."""
    start = len(str(root)) + 1
    return FileSamples(
        str(root), [str(p)[start:].replace("\\", "/") for p in paths], np.asarray(labels, np.int64)
    )


def _not_found(name: str, root: Path, reason: str) -> DataNotFoundError:
    get = DATASETS[name].get
    remedy = f"layercache datasets {name} --download --data-root {root}" if get == DOWNLOAD else get
    return DataNotFoundError(
        f"data set {name}: looked below {root}, found no complete copy ({reason}). Give its --data-root, or get it: {remedy}"
    )


def _numbers(name: str, labels: Any) -> np.ndarray[Any, Any]:
    if any(label is None for label in labels):
        raise DataError(f"data set {name}: its test part has no labels; {DATASETS[name].get}")
    return np.asarray(labels).astype(np.int64)


def _folder_pool(root: Path, below: str) -> FileSamples:
    """Images of the class folders below root/below, in the order of their names."""
    classes = sorted(
        p.name for p in (root / below).iterdir() if p.is_dir() and not p.name.startswith(".")
    )
    found = [
        (c, sorted(p.name for p in (root / below / name).iterdir() if is_image(p.name)))
        for c, name in enumerate(classes)
    ]
    ids = [f"{below}/{classes[c]}/{name}" for c, names in found for name in names]
    return FileSamples(
        str(root), ids, np.asarray([c for c, names in found for _ in names], np.int64)
    )
