"""Description of a dataset for its user, before it is used."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from layercache._units import format_bytes, pluralize
from layercache.extraction.datasets.base import Dataset
from layercache.extraction.datasets.image_files import MAX_HASHED_BYTES

MAX_CLASSES = 20
"""Class names that are shown."""
MAX_REASONS = 12
"""Reasons for leaving files out that are shown one by one."""


def describe_dataset(dataset: Dataset) -> Iterator[str]:
    """Yield lines on the classes, on what is left out and why, and on what looks wrong.

    Reads the images' bytes, unless their digest is known already.
    """
    yield _describe_classes(dataset)
    yield from getattr(dataset, "notes", ())
    yield from _describe_ignored(dataset)
    yield from _describe_labels(dataset)
    yield from _describe_repeated_images(dataset)


def _describe_classes(dataset: Dataset) -> str:
    if not dataset.classes:
        return (
            "no image has a label: the tokens can be predicted on; labels can be added later "
            "(layercache annotate), for folder:PATH also by folders (PATH/<class>/image.jpg)"
        )
    shown = ", ".join(
        name if name.isprintable() else repr(name) for name in dataset.classes[:MAX_CLASSES]
    )
    hidden = len(dataset.classes) - MAX_CLASSES
    number = "1 class" if len(dataset.classes) == 1 else f"{len(dataset.classes)} classes"
    return f"{number}: {shown}{f' and {hidden} more' if hidden > 0 else ''}"


def _describe_ignored(dataset: Dataset) -> Iterator[str]:
    reasons = sorted(getattr(dataset, "ignored", {}).items(), key=lambda item: -item[1])
    for reason, count in reasons[:MAX_REASONS]:
        yield f"left out: {count} ({reason})"
    rest = sum(count for _, count in reasons[MAX_REASONS:])
    if rest:
        yield f"left out: {rest} for {len(reasons) - MAX_REASONS} other reasons"


def _describe_labels(dataset: Dataset) -> Iterator[str]:
    """Yield which samples have no label, and which classes cannot be learned."""
    for name in dataset.splits:
        labels = dataset.split(name).labels
        unlabelled = int((labels < 0).sum()) if labels.ndim == 1 else 0
        if unlabelled:
            yield f"{name}: {pluralize(unlabelled, 'image')} without a label"
    if "train" not in dataset.splits:
        return
    labels = dataset.split("train").labels
    counts = (
        np.bincount(labels[labels >= 0], minlength=len(dataset.classes))
        if labels.ndim == 1
        else labels.sum(0)
    )
    lacking = [repr(c) for c, n in zip(dataset.classes, counts, strict=False) if n == 0]
    if lacking:
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        yield f"train has no image of the class {', '.join(lacking[:5])}{more}"


def _describe_repeated_images(dataset: Dataset) -> Iterator[str]:
    """Yield how many images of other splits have the same bytes as one of train."""
    if "train" not in dataset.splits:
        return
    train = getattr(dataset.split("train"), "image_hashes", False)
    if train is None and len(dataset.splits) > 1:
        yield (
            "train has more than "
            f"{format_bytes(MAX_HASHED_BYTES)}, so other splits were not searched for its images"
        )
    if train is None or train is False:
        return
    for name in dataset.splits:
        hashes = getattr(dataset.split(name), "image_hashes", None)
        if name == "train" or hashes is None:
            continue
        repeated = int(np.isin(hashes[hashes != 0], train).sum())
        if repeated:
            yield (
                f"{name}: {repeated} of {pluralize(len(hashes), 'image')} have the same bytes as "
                "an image of train"
            )
