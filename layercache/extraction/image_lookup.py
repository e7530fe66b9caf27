"""Images of datasets by sample id, for figures that show some."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from PIL import Image

from layercache.cache.format.origin import dataset_name
from layercache.errors import LayercacheError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.datasets.open import open_dataset
from layercache.extraction.pipeline.decode import open_image

logger = logging.getLogger(__name__)


class ImageLookup:
    """Function from (dataset, sample id) to the test image, or None if unavailable.

    The dataset is the source that a cache has recorded, or its name as in a cache.

    A dataset is opened when its first image is requested. If that fails, the reason is logged once.
    """

    def __init__(
        self, *, sources: Sequence[str] = (), root: str | os.PathLike[str] | None = None
    ) -> None:
        """Describe where datasets are found.

        Args:
            sources: Datasets as the user named them ("folder:/my/pets"), for caches that have no
                recorded source but the name "pets".
            root: Folder of the named datasets' files, as in `open_dataset`.
        """
        self._sources = {dataset_name(source): source for source in sources}
        self._root = root
        self._opened: dict[str, tuple[Samples, dict[str, int]] | None] = {}

    def __call__(self, dataset: str, sample_id: str) -> Image.Image | None:
        """Return the image, mode RGB; None if the dataset, the id or the file is missing."""
        if dataset not in self._opened:
            self._opened[dataset] = self._open(dataset)
        opened = self._opened[dataset]
        if opened is None:
            return None
        samples, rows = opened
        if sample_id not in rows:
            return None
        try:
            return open_image(samples, rows[sample_id])
        except LayercacheError:
            return None

    def _open(self, dataset: str) -> tuple[Samples, dict[str, int]] | None:
        source = self._sources.get(dataset, dataset)
        root = None if ":" in source else self._root
        try:
            samples = open_dataset(source, root=root, offline=True).split("test")
            return samples, {sample_id: row for row, sample_id in enumerate(samples.ids)}
        except LayercacheError as error:
            logger.info("no thumbnails of %s: %s", dataset, error)
            return None
