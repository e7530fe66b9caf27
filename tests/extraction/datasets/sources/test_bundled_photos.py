"""Patches of two photographs: their positions, and no test pixel in a training patch."""

from __future__ import annotations

import pickle

import numpy as np
from sklearn.datasets import load_sample_image

from layercache.extraction.datasets import open_dataset
from layercache.extraction.datasets.sources.bundled_photos import (
    COLUMNS,
    open_photos,
    patch_corners,
)

PATCH, REGION = 28, 213


def origin(split: str, row: int) -> tuple[str, int, int]:
    """(photograph, top, left) of a patch, by hand from the region-by-region order of the rows."""
    per_region = {"train": 14 * 6, "test": 7 * 3}[split]
    across = {"train": 6, "test": 3}[split]
    step = {"train": 14, "test": 28}[split]
    place, i = divmod(row, per_region)
    photograph, place = divmod(place, 6)
    start = {"train": 0, "test": 113}[split]
    return (
        ("china", "flower")[photograph],
        (place // 3) * REGION + (i // across) * step,
        (place % 3) * REGION + start + (i % across) * step,
    )


def test_photos_have_the_documented_sizes_classes_and_ids() -> None:
    data = open_dataset("photos")
    train, test = data.split("train"), data.split("test")
    assert (len(train.ids), len(test.ids), len(data.classes)) == (1008, 252, 12)
    assert np.bincount(train.labels).tolist() == [84] * 12
    assert np.bincount(test.labels).tolist() == [21] * 12
    assert data.classes[:4] == (
        "china, upper left",
        "china, upper middle",
        "china, upper right",
        "china, lower left",
    )
    assert train.ids[0] == "train/000000"


def test_photos_pixels_equal_the_photographs() -> None:
    data = open_dataset("photos")
    for split in ("train", "test"):
        samples = pickle.loads(pickle.dumps(data.split(split)))
        for row in (0, 5, 6, 83, 100, len(samples.ids) - 1):
            name, top, left = origin(split, row)
            expected = np.asarray(load_sample_image(f"{name}.jpg"))[
                top : top + PATCH, left : left + PATCH
            ]
            assert np.array_equal(np.asarray(samples.load(row)), expected), (split, row)


def covered(split: str) -> np.ndarray:
    """How often a pixel of a place is in a patch of a split."""
    count = np.zeros((REGION, REGION), int)
    for top, left in patch_corners(split):
        count[top : top + PATCH, left : left + PATCH] += 1
        assert top + PATCH <= REGION
        assert left + PATCH <= REGION
    return count


def test_photos_splits_share_no_pixel_and_test_patches_do_not_overlap() -> None:
    train, test = covered("train"), covered("test")
    assert not ((train > 0) & (test > 0)).any()
    assert test.max() == 1
    assert train.max() > 1  # negative control: overlap is seen where there is some
    columns = [np.flatnonzero(count.any(0)) for count in (train, test)]
    assert columns[1].min() - columns[0].max() > 13
    assert COLUMNS["test"][0] - COLUMNS["train"][1] == 13


def test_photos_opened_twice_have_equal_digests() -> None:
    assert (
        open_photos().split("test").content_digest
        == open_photos().split("test").content_digest
        != open_photos().split("train").content_digest
    )
