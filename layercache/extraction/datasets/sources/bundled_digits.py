"""`digits`: the 1797 handwritten digits, 8 x 8 pixels, that come with scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np

from layercache.extraction.datasets.arrays import ArraySamples
from layercache.extraction.datasets.in_memory import InMemoryDataset
from layercache.extraction.datasets.subsampling import draw_stratified

NUM_TRAIN = 1437
"""Training images: 80 % of 1797, drawn class by class. scikit-learn's digits have no split."""


def open_digits() -> InMemoryDataset:
    """Return grey images, values 0..16 scaled to 0..255.

    Ids are "digits/<index in scikit-learn's order>" in both splits.
    """
    labels = _read_labels()
    train = draw_stratified(labels, NUM_TRAIN, seed=0, key="digits")
    test = np.setdiff1d(np.arange(len(labels)), train)
    samples = ArraySamples(_read_images, labels=labels, prefix="digits")
    return InMemoryDataset(
        name="digits",
        classes=tuple("0123456789"),
        samples={"train": samples.take(train), "test": samples.take(test)},
    )


def _read_labels() -> np.ndarray[Any, Any]:
    from sklearn.datasets import load_digits

    return load_digits().target.astype(np.int64)  # type: ignore[no-any-return]


def _read_images() -> np.ndarray[Any, Any]:
    from sklearn.datasets import load_digits

    return np.round(load_digits().images * (255 / 16)).astype(np.uint8)  # type: ignore[no-any-return]
