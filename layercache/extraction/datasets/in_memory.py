"""The dataset that every source returns: its splits and classes, validated when it is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from layercache.errors import DataError, OptionError, UnknownNameError
from layercache.extraction.datasets.base import Dataset, Samples
from layercache.extraction.datasets.registry import DATASETS


@dataclass(frozen=True, kw_only=True)
class InMemoryDataset:
    """Named splits of samples and the classes that their labels refer to.

    Labels are checked by `check_labels`, for the splits that are used.

    Raises:
        DataError: Ids, classes and the number of labels do not fit together.
    """

    name: str
    """Name in caches and tables; safe as a folder name."""
    classes: tuple[str, ...]
    """Class names in label order."""
    samples: Mapping[str, Samples]
    """Split name -> samples, in order."""
    multi_label: bool = False
    """True if an image may have several classes: labels are uint8 (N, C) instead of int64 (N,)."""
    ignored: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of files left out, e.g. {"hidden": 3}; not part of the identity."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how the source was read."""

    def __post_init__(self) -> None:
        if not self.samples:
            raise DataError(f"dataset {self.name}: expected at least one split, got none")
        repeated = [name for name, n in Counter(self.classes).items() if n > 1]
        if repeated:
            raise DataError(
                f"dataset {self.name}: class names must be unique, "
                f"got {repeated[0]!r} more than once"
            )
        for name, samples in self.samples.items():
            where = f"dataset {self.name}, split {name}"
            _check_ids(samples, where=where)
            n = len(samples.ids)
            shape = (n, len(self.classes)) if self.multi_label else (n,)
            if samples.labels.shape != shape:
                raise DataError(
                    f"{where}: expected labels of shape {shape}, got {samples.labels.shape}"
                )

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.samples)

    def split(self, name: str) -> Samples:
        """Return the samples of one split.

        Raises:
            UnknownNameError: There is no split of this name.
        """
        if name not in self.samples:
            raise UnknownNameError(f"split of dataset {self.name}", name, self.samples)
        return self.samples[name]


def rename_dataset(dataset: Dataset, name: str) -> InMemoryDataset:
    """Return a dataset under another name.

    Raises:
        OptionError: It is the name of a built-in dataset.
    """
    if name in DATASETS:
        raise OptionError(
            f"name: {name!r} is a built-in dataset, which `layercache datasets` lists: choose "
            "another name"
        )
    return InMemoryDataset(
        name=name,
        classes=dataset.classes,
        samples={split: dataset.split(split) for split in dataset.splits},
        multi_label=dataset.multi_label,
        ignored=getattr(dataset, "ignored", {}),
        notes=getattr(dataset, "notes", ()),
    )


def common_classes(
    classes: Mapping[str, tuple[str, ...]], *, where: object, remedy: str
) -> tuple[str, ...]:
    """Return the class names that all splits have in common.

    Args:
        classes: Split name -> class names in label order.
        where: Place of the dataset, for the error.
        remedy: Advice, for the error.

    Raises:
        DataError: Two splits have different classes.
    """
    (first, names), *others = classes.items()
    for other, other_names in others:
        if names == other_names:
            continue
        differing = sorted(set(names) ^ set(other_names))
        if not differing:
            raise DataError(
                f"{where}: {first} and {other} order their classes differently; {remedy}"
            )
        having, lacking = (first, other) if differing[0] in names else (other, first)
        raise DataError(
            f"{where}: {having} has a class {differing[0]!r} that {lacking} does not have "
            f"({len(differing)} such class(es)); {remedy}"
        )
    return names


def _check_ids(samples: Samples, *, where: str) -> None:
    ids = samples.ids
    if not ids:
        raise DataError(f"{where}: expected at least one sample, got none")
    if len(set(ids)) != len(ids):
        repeated = next(sample_id for sample_id, n in Counter(ids).items() if n > 1)
        raise DataError(f"{where}: ids must be unique, got {repeated!r} more than once")
    _check_unicode(ids, where=where)


def _check_unicode(names: Iterable[str], *, where: str) -> None:
    """Refuse file names in another encoding: their bytes would differ from machine to machine."""
    joined = "\n".join(names)
    try:
        joined.encode()
    except UnicodeEncodeError as error:
        name = next(n for n in joined.split("\n") if any("\ud800" <= c <= "\udfff" for c in n))
        raise DataError(
            f"{where}: the file name {name!r} is not valid UTF-8: rename the file"
        ) from error


def check_labels(dataset: Dataset, split: str) -> None:
    """Check the labels of one split; a sample may have none (-1).

    Args:
        dataset: The dataset.
        split: Name of the split.

    Raises:
        DataError: A label is no class.
    """
    samples = dataset.split(split)
    ids, labels = samples.ids, samples.labels
    num_classes = len(dataset.classes)
    where = f"dataset {dataset.name}, split {split}"
    if dataset.multi_label:
        invalid = np.flatnonzero((labels > 1).any(1))
        expected = "0 or 1 for every class"
    else:
        invalid = np.flatnonzero((labels < -1) | (labels >= num_classes))
        expected = f"0 to {num_classes - 1} ({num_classes} classes)"
    if invalid.size:
        row = invalid[0]
        raise DataError(
            f"{where}: sample {ids[row]!r} has label {labels[row].tolist()}, expected {expected}; "
            f"{invalid.size} sample(s) in total"
        )
