"""What every source of images gives: named splits of samples with stable ids, labels and a way to load image i."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from PIL import Image


class Samples(Protocol):
    """One split. Picklable, cheap to send to a worker process; opening files happens in `load`."""

    @property
    def ids(self) -> list[str]:
        """N stable names, unique within the split: a path relative to the root, a key in a tar, or an index in the source."""
        ...

    @property
    def labels(self) -> np.ndarray[Any, Any]:
        """int64 (N,), or uint8 (N, C) when the data set is multi-label."""
        ...

    @property
    def content(self) -> str:
        """Stands for the images' bytes.

        "bytes:<sha256>" over all of them or, where that would take too long (above 1 GiB), "sizes:<sha256>" over the files' sizes,
        "sample:<sha256>" over some rows of an array.
        """
        ...

    def load(self, row: int) -> Image.Image:
        """Image `row`, as stored (any PIL mode, EXIF not applied). Raises whatever reading raises; the decoder names the id."""
        ...

    def take(self, rows: np.ndarray[Any, Any]) -> Samples:
        """Only these rows, in this order."""
        ...


class Dataset(Protocol):
    """A labelled image data set with at least one split."""

    @property
    def name(self) -> str:
        """As in CacheSpec.dataset.name: safe as a folder name."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        ...

    @property
    def multi_label(self) -> bool:
        """Labels are (N, C) 0/1."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, e.g. ("train", "test")."""
        ...

    def open(self, split: str) -> Samples:
        """The samples of one split."""
        ...
