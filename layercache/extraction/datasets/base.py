"""Protocols of a labelled image dataset: named splits of samples with ids, labels and images."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from PIL import Image


class Samples(Protocol):
    """One split of N images; picklable and cheap to send to a worker, since `load` opens files."""

    @property
    def ids(self) -> list[str]:
        """N stable names, unique within the split: relative path, key in a tar, or index."""
        ...

    @property
    def labels(self) -> np.ndarray[Any, Any]:
        """Class numbers, int64 (N,), or for a multi-label dataset 0/1 indicators, uint8 (N, C).

        A class number of -1 means that the sample has no label; it is never a class.
        """
        ...

    @property
    def content_digest(self) -> str:
        """Digest of the images, prefixed with what was hashed.

        "bytes:<sha256>" covers every byte. Above 1 GiB, "sizes:<sha256>" covers the file sizes and
        "sample:<sha256>" evenly spaced rows of an array.
        """
        ...

    def load(self, row: int) -> Image.Image:
        """Return image `row` as stored: any PIL mode, EXIF orientation not applied.

        May raise anything that reading raises; the decoder adds the sample's id.
        """
        ...

    def take(self, rows: np.ndarray[Any, Any]) -> Samples:
        """Return only the given rows, in the given order."""
        ...


class Dataset(Protocol):
    """A labelled image dataset with at least one split."""

    @property
    def name(self) -> str:
        """Name in caches and tables; safe as a folder name."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        ...

    @property
    def multi_label(self) -> bool:
        """True if an image may have several classes: labels are uint8 (N, C)."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, e.g. ("train", "test")."""
        ...

    def split(self, name: str) -> Samples:
        """Return the samples of one split."""
        ...
