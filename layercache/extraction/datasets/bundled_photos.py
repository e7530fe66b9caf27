"""`photos`: where in two real photographs does a patch come from? Cut from the two that come with scikit-learn.

    a photograph, 427 x 640: 2 x 3 places, each a class, of 213 x 213 pixels
    a place: columns 0..99 for training | 13 columns left out | columns 113..212 for testing

No pixel of a test patch is in a training patch, nor next to one of its own class: patches of the two splits would otherwise be copies of each other.
Training patches overlap by half. Test patches do not overlap, so that they count as separate images.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from layercache.extraction.datasets.arrays import ArraySamples
from layercache.extraction.datasets.in_memory import InMemoryDataset

PHOTOGRAPHS = ("china", "flower")
"""scikit-learn's sample images: a temple beneath a cloudy sky, and a dahlia before foliage."""
PLACES = (2, 3)
"""Rows and columns of places in a photograph."""
SIDE = 213
"""Side of a place in pixels."""
PATCH = 28
"""Side of a patch in pixels."""
COLUMNS = {"train": (0, 100), "test": (113, 213)}
"""Columns [start, stop) of a place that a split's patches lie in."""
STEP = {"train": PATCH // 2, "test": PATCH}
"""Distance of neighbouring patches in pixels."""


def photos() -> InMemoryDataset:
    """12 places, colour patches of 28 x 28: 1008 for training, 252 for testing. Ids are "train/<number>" and "test/<number>", place by place."""
    classes = tuple(
        f"{name}, {row} {column}"
        for name in PHOTOGRAPHS
        for row in ("upper", "lower")
        for column in ("left", "middle", "right")
    )
    samples = {}
    for split in COLUMNS:
        labels = np.repeat(np.arange(len(classes), dtype=np.int64), len(corners(split)))
        samples[split] = ArraySamples(_READ[split], labels=labels, prefix=split)
    return InMemoryDataset(name="photos", classes=classes, samples=samples)


def corners(split: str) -> list[tuple[int, int]]:
    """(top, left) of every patch of a split, from its place's own upper left corner."""
    start, stop = COLUMNS[split]
    step = STEP[split]
    return list(product(range(0, SIDE - PATCH + 1, step), range(start, stop - PATCH + 1, step)))


def _train() -> np.ndarray[Any, Any]:
    return _patches("train")


def _test() -> np.ndarray[Any, Any]:
    return _patches("test")


_READ = {"train": _train, "test": _test}
"""Functions by name, so that workers can be sent them."""


def _patches(split: str) -> np.ndarray[Any, Any]:
    """uint8 (N, 28, 28, 3)."""
    from sklearn.datasets import load_sample_image

    cut = []
    for name in PHOTOGRAPHS:
        pixels = np.asarray(load_sample_image(f"{name}.jpg"))
        for row, column in product(*(range(n) for n in PLACES)):
            place = pixels[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
            cut += [place[top : top + PATCH, left : left + PATCH] for top, left in corners(split)]
    return np.stack(cut)
