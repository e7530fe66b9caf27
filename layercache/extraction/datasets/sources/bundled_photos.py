"""`photos`: classify from which region of two photographs a patch was cut.

The photographs are the two that come with scikit-learn.

    a photograph, 427 x 640 pixels: 2 x 3 regions, each a class, of 213 x 213 pixels
    a region: columns 0..99 for training | 13 columns left out | columns 113..212 for testing

No pixel of a test patch is in a training patch, nor next to one of its own class; otherwise patches
of the two splits would be near-copies of each other. Training patches overlap by half. Test patches
do not overlap, so that they count as separate images.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np

from layercache.extraction.datasets.arrays import ArraySamples
from layercache.extraction.datasets.in_memory import InMemoryDataset

PHOTOGRAPHS = ("china", "flower")
"""scikit-learn's sample images: a temple beneath a cloudy sky, and a dahlia in front of foliage."""
REGIONS = (2, 3)
"""Rows and columns of regions in a photograph."""
REGION_SIZE = 213
"""Side of a region in pixels."""
PATCH_SIZE = 28
"""Side of a patch in pixels."""
COLUMNS = {"train": (0, 100), "test": (113, 213)}
"""Columns [start, stop) of a region that hold the patches of a split."""
STRIDE = {"train": PATCH_SIZE // 2, "test": PATCH_SIZE}
"""Distance between neighbouring patches in pixels."""


def open_photos() -> InMemoryDataset:
    """Return 12 classes of colour patches, 28 x 28: 1008 for training, 252 for testing.

    Ids are "train/<number>" and "test/<number>", region by region.
    """
    classes = tuple(
        f"{name}, {row} {column}"
        for name in PHOTOGRAPHS
        for row in ("upper", "lower")
        for column in ("left", "middle", "right")
    )
    samples = {}
    for split in COLUMNS:
        labels = np.repeat(np.arange(len(classes), dtype=np.int64), len(patch_corners(split)))
        samples[split] = ArraySamples(partial(_cut_patches, split), labels=labels, prefix=split)
    return InMemoryDataset(name="photos", classes=classes, samples=samples)


def patch_corners(split: str) -> list[tuple[int, int]]:
    """Return (top, left) of every patch of a split, relative to its region."""
    start, stop = COLUMNS[split]
    tops = range(0, REGION_SIZE - PATCH_SIZE + 1, STRIDE[split])
    lefts = range(start, stop - PATCH_SIZE + 1, STRIDE[split])
    return list(product(tops, lefts))


def _cut_patches(split: str) -> np.ndarray[Any, Any]:
    """Return the patches of a split, uint8 (N, 28, 28, 3)."""
    from sklearn.datasets import load_sample_image

    patches = []
    for name in PHOTOGRAPHS:
        pixels = np.asarray(load_sample_image(f"{name}.jpg"))
        for row, column in product(range(REGIONS[0]), range(REGIONS[1])):
            top, left = row * REGION_SIZE, column * REGION_SIZE
            region = pixels[top : top + REGION_SIZE, left : left + REGION_SIZE]
            patches += [
                region[y : y + PATCH_SIZE, x : x + PATCH_SIZE] for y, x in patch_corners(split)
            ]
    return np.stack(patches)
