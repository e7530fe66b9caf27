"""The preprocessing of a transformers model against its image processor."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from layercache.errors import BackboneError
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.preprocessing.transform import Preprocessing
from tests.extraction.models.transformers_models import (
    copy_of,
    edit,
    folder,
    load,
    picture,
    processor,
)


@pytest.mark.parametrize("key", ["vit", "deit", "dinov2", "dinov3", "clip", "siglip", "beit"])
def test_pixels_equal_the_image_processor(key: str) -> None:
    preprocessing = load(key, tokens="ap").preprocessing
    for shape in [(50, 71), (37, 32), (64, 41), (33, 90), (20, 20)]:
        image = picture(*shape)
        pixels = torch.from_numpy(preprocessing.resize_and_crop(image).copy())[None]
        got = preprocessing.normalize(pixels).numpy()
        expected = processor(key)(image, return_tensors="np")["pixel_values"]
        if key == "dinov3":  # its only processor rounds nothing after the resize
            assert np.abs(got - expected).max() < 1 / 255 / min(preprocessing.std)
        else:
            np.testing.assert_array_equal(got, expected)


def test_preprocessing_options_replace_parts_of_the_image_processor() -> None:
    own = load("dinov2").preprocessing
    options = PreprocessingOptions(mean=(0.1, 0.2, 0.3), interpolation="bilinear")
    changed = load("dinov2", preprocessing=options).preprocessing
    assert changed.mean == (0.1, 0.2, 0.3)
    assert changed.interpolation == "bilinear"
    assert (changed.resize, changed.std) == (own.resize, own.std) == ((37, 37), own.std)
    assert Preprocessing.from_json(own.to_json()) == own


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"do_resize": False}, "do_resize=False"),
        ({"do_pad": True, "pad_size": {"height": 40, "width": 40}}, "do_pad=True"),
        ({"size": {"shortest_edge": 40, "longest_edge": 50}}, "'shortest_edge' alone"),
        ({"image_processor_type": "ConvNextImageProcessor"}, "got ConvNextImageProcessor"),
        ({"image_processor_type": "NoSuchProcessor"}, "cannot read the image processor"),
    ],
)
def test_an_image_processor_that_cannot_be_reproduced_is_refused_with_a_remedy_that_works(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    path = copy_of("vit", tmp_path)
    edit(path / "preprocessor_config.json", **values)
    with pytest.raises(BackboneError, match=message) as error:
        load_encoder(f"hf:{path}")
    assert "give all of input_size, crop_pct" in str(error.value)
    options = PreprocessingOptions(
        input_size=32,
        crop_pct=1.0,
        crop_mode="center",
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    assert load_encoder(f"hf:{path}", preprocessing=options).preprocessing.resize == (32, 32)


def test_another_rescale_factor_and_no_normalization_equal_the_image_processor(
    tmp_path: Path,
) -> None:
    path = copy_of("vit", tmp_path)
    for values in (
        {"rescale_factor": 1 / 127.5},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_normalize": False, "do_rescale": False},
    ):
        shutil.copy(folder("vit") / "preprocessor_config.json", path)
        edit(path / "preprocessor_config.json", **values)
        preprocessing = load_encoder(f"hf:{path}").preprocessing
        image = picture(40, 50)
        pixels = torch.from_numpy(preprocessing.resize_and_crop(image).copy())[None]
        own = transformers.ViTImageProcessorPil.from_pretrained(path)
        expected = own(image, return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(preprocessing.normalize(pixels), expected, rtol=1e-5, atol=1e-5)
