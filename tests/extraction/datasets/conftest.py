"""Small pictures identified by their colour, and a comparison of splits with them."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.datasets.in_memory import InMemoryDataset
from layercache.extraction.pipeline.decode import open_image


class Pictures:
    """Picture n has one colour, distinct for every n below 100."""

    def colour(self, n):
        return np.array([(n * 37 + 11) % 256, (n * 59 + 5) % 256, (n * 83 + 200) % 256])

    def image(self, n, size=(9, 7)):
        return Image.new("RGB", size, tuple(self.colour(n).tolist()))

    def write(self, path, n, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.image(n).save(
            path,
            **({"quality": 100, "subsampling": 0} | options if path.suffix == ".jpg" else options),
        )

    def encoded(self, n, kind="PNG"):
        file = io.BytesIO()
        self.image(n).save(file, kind)
        return file.getvalue()

    def check(self, dataset, split, expected, atol=4):
        """Compare a split, also pickled, with (id, class name or names, n) of every sample."""
        samples = dataset.split(split)
        assert samples.ids == [i for i, _, _ in expected]
        if dataset.multi_label:
            assert samples.labels.dtype == np.uint8
            assert [
                {dataset.classes[c] for c in np.flatnonzero(row)} for row in samples.labels
            ] == [set(names) for _, names, _ in expected]
        else:
            assert samples.labels.dtype == np.int64
            assert [dataset.classes[c] for c in samples.labels] == [name for _, name, _ in expected]
        for copy in (samples, pickle.loads(pickle.dumps(samples))):
            for row, (_, _, n) in enumerate(expected):
                pixels = np.asarray(open_image(copy, row)).reshape(-1, 3)
                np.testing.assert_allclose(
                    pixels, np.broadcast_to(self.colour(n), pixels.shape), atol=atol
                )


@pytest.fixture
def pictures():
    return Pictures()


@pytest.fixture
def many(tmp_path, pictures):
    """Return a dataset of 60 files: 40 of class a, 20 of class b."""
    ids = [f"{i:02d}.png" for i in range(60)]
    for i, name in enumerate(ids):
        pictures.write(tmp_path / name, i)
    labels = (np.arange(60) % 3 == 2).astype(np.int64)
    return InMemoryDataset(
        name="many",
        classes=("a", "b"),
        samples={
            "train": FileSamples(str(tmp_path), ids, labels),
            "test": FileSamples(str(tmp_path), ids[:6], labels[:6]),
        },
    )
