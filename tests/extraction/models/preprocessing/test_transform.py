"""Both halves of the preprocessing compared with timm's own evaluation transform."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from layercache.errors import DataError, OptionError
from layercache.extraction.models.preprocessing.transform import RESAMPLING, Preprocessing

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    return Image.fromarray(pixels)


def config(**changes: object) -> dict[str, object]:
    base = {
        "input_size": (3, 32, 32),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": MEAN,
        "std": STD,
    }
    return base | changes


def timm_output(cfg: dict[str, object], image: Image.Image) -> torch.Tensor:
    return create_transform(**cfg, is_training=False)(image)


def apply(preprocessing: Preprocessing, image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(preprocessing.resize_and_crop(image).copy())
    return preprocessing.normalize(pixels[None])[0]


def layercache_output(cfg: dict[str, object], image: Image.Image) -> torch.Tensor:
    return apply(Preprocessing.from_timm(cfg), image)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize(
    "size", [(40, 60), (61, 33), (37, 37), (7, 90), (32, 32), (36, 36), (500, 11)], ids=str
)
@pytest.mark.parametrize("input_size", [(3, 32, 32), (3, 32, 24), (3, 33, 33)], ids=str)
def test_preprocessing_equals_timm_to_the_bit(
    crop_mode: str, crop_pct: float, size: tuple[int, int], input_size: tuple[int, ...]
) -> None:
    cfg = config(crop_mode=crop_mode, crop_pct=crop_pct, input_size=input_size)
    assert torch.equal(layercache_output(cfg, picture(*size)), timm_output(cfg, picture(*size)))


@pytest.mark.parametrize("interpolation", list(RESAMPLING))
def test_preprocessing_with_every_interpolation_equals_timm(interpolation: str) -> None:
    cfg = config(interpolation=interpolation)
    assert torch.equal(layercache_output(cfg, picture(51, 77)), timm_output(cfg, picture(51, 77)))


def test_preprocessing_with_another_interpolation_differs() -> None:
    """Negative control: the comparison above notices a wrong filter."""
    assert not torch.equal(
        layercache_output(config(interpolation="bilinear"), picture(51, 77)),
        timm_output(config(), picture(51, 77)),
    )


def test_resize_and_crop_returns_uint8_channels_first() -> None:
    pixels = Preprocessing.from_timm(config()).resize_and_crop(picture(50, 40))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (3, 32, 32)


def test_normalize_leaves_its_input_unchanged() -> None:
    batch = torch.full((2, 3, 32, 32), 7, dtype=torch.uint8)
    Preprocessing.from_timm(config()).normalize(batch)
    assert (batch == 7).all()


def test_to_json_is_plain_json_and_restores_the_preprocessing() -> None:
    transform = Preprocessing.from_timm(config(crop_mode="border"))
    value = json.loads(json.dumps(transform.to_json()))
    assert value == transform.to_json()
    assert value["resize"] == [36, 36]
    assert Preprocessing.from_json(value) == transform


def test_preprocessing_description_says_how_the_image_is_scaled() -> None:
    def described(**changes: object) -> str:
        return str(Preprocessing.from_timm(config(**changes)))

    assert described() == (
        "short edge to 36 (bicubic), center crop of 32 x 32, mean 0.48145466,0.4578275,0.40821073, "
        "std 0.26862954,0.26130258,0.27577711"
    )
    assert described(input_size=(3, 32, 24)).startswith("scaled to fill 36 x 27 (bicubic), center")
    assert described(crop_mode="squash").startswith("stretched to 36 x 36")
    assert described(crop_mode="border", crop_pct=1.0).startswith("fitted into 32 x 32")


def test_from_json_of_an_incomplete_record_raises() -> None:
    with pytest.raises(OptionError, match="preprocessing: not a complete record"):
        Preprocessing.from_json({"input_size": [32, 32]})


def test_preprocessing_with_another_mode_or_option_raises() -> None:
    with pytest.raises(DataError, match="expected an RGB image, got mode 'L'"):
        Preprocessing.from_timm(config()).resize_and_crop(picture(40, 40).convert("L"))
    with pytest.raises(OptionError, match="expected crop_mode center, squash, border, got 'zoom'"):
        Preprocessing.from_timm(config(crop_mode="zoom"))
    with pytest.raises(OptionError, match=r"expected interpolation nearest, .*got 'cubic'"):
        Preprocessing.from_timm(config(interpolation="cubic"))
