from __future__ import annotations

import numpy as np

from layercache.extraction.datasets import open_dataset
from layercache.extraction.image_lookup import ImageLookup


def test_image_lookup_by_id_returns_the_image():
    samples = open_dataset("digits").split("test")
    image = ImageLookup()("digits", samples.ids[7])
    assert image is not None
    np.testing.assert_array_equal(np.asarray(image), np.asarray(samples.load(7).convert("RGB")))


def test_image_lookup_of_a_missing_image_returns_none_and_logs_once(caplog):
    caplog.set_level("INFO", logger="layercache")
    lookup = ImageLookup()
    assert lookup("digits", "no such id") is None
    assert lookup("nonesuch", "1") is None
    assert lookup("nonesuch", "2") is None
    (message,) = caplog.messages
    assert message.startswith("no thumbnails of nonesuch: unknown dataset")


def test_image_lookup_of_a_folder_by_its_cache_name_finds_it(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
            (tmp_path / "pics" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), colour).save(tmp_path / "pics" / split / name / "1.png")
    source = f"folder:{tmp_path / 'pics'}"
    dataset = open_dataset(source)
    samples = dataset.split("test")
    lookup = ImageLookup(sources=[source])
    colours = [lookup(dataset.name, i).getpixel((0, 0)) for i in samples.ids]
    assert sorted(colours) == [(0, 0, 255), (255, 0, 0)]
