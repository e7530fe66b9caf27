"""Single images by their id, for whoever shows some: opened when first asked for, and None where they are not at hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from PIL import Image

from layercache.errors import LayercacheError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.datasets.registry import dataset_name, open_dataset
from layercache.extraction.pipeline.decode import open_image


class Thumbnails:
    """(name of a data set as in a cache, id of an image) -> the image, or None. Says once per data set why there are none."""

    def __init__(
        self,
        *,
        given: Sequence[str] = (),
        root: str | os.PathLike[str] | None = None,
        split: str = "test",
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`given`: data sets as the user named them ("folder:/my/pets"), where a cache only knows "pets". `root`: as in `open_dataset`."""
        self._given = {dataset_name(name): name for name in given}
        self._root = root
        self._split = split
        self._say = say
        self._found: dict[str, tuple[Samples, dict[str, int]] | None] = {}

    def __call__(self, dataset: str, identifier: str) -> Image.Image | None:
        """The image, mode RGB; None where the data set, the id or the file is not there."""
        if dataset not in self._found:
            self._found[dataset] = self._open(dataset)
        found = self._found[dataset]
        if found is None or identifier not in found[1]:
            return None
        try:
            return open_image(found[0], found[1][identifier])
        except LayercacheError:
            return None

    def _open(self, dataset: str) -> tuple[Samples, dict[str, int]] | None:
        name = self._given.get(dataset, dataset)
        try:
            samples = open_dataset(name, root=None if ":" in name else self._root).open(self._split)
            return samples, {identifier: row for row, identifier in enumerate(samples.ids)}
        except LayercacheError as error:
            if self._say is not None:
                self._say(f"no thumbnails of {dataset}: {error}")
            return None
