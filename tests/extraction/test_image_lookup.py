from __future__ import annotations

import numpy as np

from layercache.extraction.datasets import open_dataset
from layercache.extraction.image_lookup import ImageLookup


def test_an_image_by_its_id():
    samples = open_dataset("digits").split("test")
    found = ImageLookup()("digits", samples.ids[7])
    assert found is not None
    np.testing.assert_array_equal(np.asarray(found), np.asarray(samples.load(7).convert("RGB")))


def test_what_is_not_at_hand_is_none_and_said_once():
    said: list[str] = []
    lookup = ImageLookup(say=said.append)
    assert lookup("digits", "no such id") is None
    assert lookup("nonesuch", "1") is None
    assert lookup("nonesuch", "2") is None
    assert len(said) == 1
    assert said[0].startswith("no thumbnails of nonesuch: unknown data set")


def test_a_folder_is_found_by_the_name_its_cache_has(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
            (tmp_path / "pics" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), colour).save(tmp_path / "pics" / split / name / "1.png")
    given = f"folder:{tmp_path / 'pics'}"
    dataset = open_dataset(given)
    samples = dataset.split("test")
    lookup = ImageLookup(sources=[given])
    colours = [lookup(dataset.name, i).getpixel((0, 0)) for i in samples.ids]
    assert sorted(colours) == [(0, 0, 255), (255, 0, 0)]
