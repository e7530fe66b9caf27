"""Resolved preprocessing compared with the makers' torchvision transforms, and with timm's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize
from torchvision.transforms import ToTensor as ToUnitInterval

from layercache.errors import OptionError
from layercache.extraction.models import vit_nano
from layercache.extraction.models.preprocessing.data_config import resolve_preprocessing
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.preprocessing.transform import Preprocessing
from layercache.extraction.models.registry import MODELS

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def published(resize: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Compose:
    """The composition that openai/CLIP, facebookresearch/dinov2 and facebookresearch/mae build."""
    return Compose(
        [
            Resize(resize, interpolation=InterpolationMode.BICUBIC),
            CenterCrop(224),
            ToUnitInterval(),
            Normalize(mean, std),
        ]
    )


PUBLISHED = {
    "clip_b32": published(224, *OPENAI),
    "clip_b16": published(224, *OPENAI),
    "clip_l14": published(224, *OPENAI),
    "dinov2_s14": published(256, *IMAGENET),
    "dinov2_b14": published(256, *IMAGENET),
    "dinov2_l14": published(256, *IMAGENET),
    "mae_b16": published(256, *IMAGENET),
    "mae_l16": published(256, *IMAGENET),
}


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PICTURES = [picture(300, 400), picture(513, 225), picture(96, 96)]


def pretrained_cfg(timm_name: str) -> dict[str, Any]:
    config = timm.get_pretrained_cfg(timm_name)
    return config.to_dict() | {"architecture": config.architecture}


def resolve(
    name: str, *, paper_compat: bool = False, **options: Any
) -> tuple[Preprocessing, tuple[str, ...]]:
    info = MODELS.get(name)
    if name == "vit_nano":
        config = {"architecture": vit_nano.ARCHITECTURE, **vit_nano.DATA_CONFIG}
    else:
        config = pretrained_cfg(info.architecture if info else name)
    return resolve_preprocessing(
        config, info, PreprocessingOptions(**options), paper_compat=paper_compat
    )


def timm_transform(timm_name: str, **changes: Any) -> Any:
    config = resolve_data_config(None, pretrained_cfg=pretrained_cfg(timm_name))
    return create_transform(**(config | changes), is_training=False)


def apply(preprocessing: Preprocessing, image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(preprocessing.resize_and_crop(image).copy())
    return preprocessing.normalize(pixels[None])[0]


def assert_equal(preprocessing: Preprocessing, transform: Any) -> None:
    for image in PICTURES:
        assert torch.equal(apply(preprocessing, image), transform(image))


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_short_name_preprocesses_as_its_makers_published_to_the_bit(name: str) -> None:
    assert_equal(resolve(name)[0], PUBLISHED[name])


@pytest.mark.parametrize("name", [name for name in MODELS if name not in PUBLISHED])
def test_short_name_of_weights_made_or_ported_with_timm_keeps_its_transform(name: str) -> None:
    preprocessing, notes = resolve(name)
    if name == "vit_nano":
        assert preprocessing == Preprocessing.from_timm(vit_nano.DATA_CONFIG)
    else:
        assert_equal(preprocessing, timm_transform(MODELS[name].architecture))
    assert notes == ()


@pytest.mark.parametrize("name", ["clip_b32", "clip_b16", "dinov2_b14", "mae_b16"])
def test_short_name_that_differs_from_timms_metadata_says_so(name: str) -> None:
    preprocessing, notes = resolve(name)
    timms = timm_transform(MODELS[name].architecture, input_size=(3, 224, 224))
    assert not torch.equal(apply(preprocessing, PICTURES[0]), timms(PICTURES[0]))
    (note,) = notes
    assert note.startswith(f"preprocessed with crop_pct {MODELS[name].transform.crop_pct:g} of its")  # type: ignore[union-attr]
    assert note.endswith(f"not crop_pct {MODELS[name].timm_crop_pct:g} of timm's metadata")
    assert resolve("clip_l14")[1] == ()  # here both agree


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("vit_base_patch16_clip_quickgelu_224.openai", "not crop_pct 1 of its makers (openai/CLIP"),
        ("vit_base_patch14_reg4_dinov2.lvd142m", "not crop_pct 0.875 of its makers (facebook"),
        ("vit_huge_patch14_224.mae", "not crop_pct 0.875 of its makers (facebookresearch/mae"),
        ("vit_base_patch16_clip_224.laion2b", None),
    ],
)
def test_timm_name_keeps_timms_metadata_and_notes_another_transform_of_its_makers(
    name: str, note: str | None
) -> None:
    preprocessing, notes = resolve(name)
    assert_equal(preprocessing, timm_transform(name))
    assert [note in text for text in notes] == ([] if note is None else [True])  # type: ignore[operator]


def test_paper_compat_changes_only_dinov2_and_mae() -> None:
    paper = {"crop_pct": 224 / 256, "interpolation": "bilinear", "input_size": (3, 224, 224)}
    for name in ("dinov2_b14", "mae_b16"):
        preprocessing, notes = resolve(name, paper_compat=True)
        assert_equal(preprocessing, timm_transform(MODELS[name].architecture, **paper))
        assert notes == ()
    assert_equal(
        resolve("vit_base_patch14_dinov2.lvd142m", paper_compat=True)[0],
        timm_transform("vit_base_patch14_dinov2.lvd142m", **paper),
    )
    for name in ("clip_b16", "vit_b16", "vit_nano"):
        assert resolve(name, paper_compat=True) == resolve(name)


@pytest.mark.parametrize("name", ["vit_b16", "vit_base_patch16_siglip_224.webli"])
@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"input_size": 384}, {"input_size": (3, 384, 384)}),
        ({"input_size": (192, 256)}, {"input_size": (3, 192, 256)}),
        ({"crop_pct": 1}, {"crop_pct": 1.0}),
        ({"crop_mode": "squash", "interpolation": "bilinear"}, None),
        ({"crop_mode": "border", "crop_pct": 0.8, "input_size": 96}, None),
        ({"mean": (0, 0.1, 0.2), "std": [1, 2, 0.5]}, {"mean": (0, 0.1, 0.2), "std": (1, 2, 0.5)}),
    ],
)
def test_options_replace_parts_of_the_preprocessing_as_in_timm(
    name: str, options: dict[str, Any], changes: dict[str, Any] | None
) -> None:
    timm_name = MODELS[name].architecture if name in MODELS else name
    expected = dict(options if changes is None else changes)
    if expected.get("input_size") == 96:
        expected["input_size"] = (3, 96, 96)
    preprocessing, _ = resolve(name, **options)
    assert preprocessing != resolve(name)[0]
    assert_equal(preprocessing, timm_transform(timm_name, **expected))


def test_options_apply_after_the_makers_and_the_papers_transform() -> None:
    preprocessing, notes = resolve("dinov2_b14", input_size=448)
    assert preprocessing.resize == (512, 512)
    assert notes
    preprocessing, notes = resolve("dinov2_b14", crop_pct=1, paper_compat=True)
    assert (preprocessing.resize, preprocessing.interpolation) == ((224, 224), "bilinear")
    assert resolve("clip_b16", crop_pct=0.9)[1] == ()  # the user's choice needs no note


def test_options_equal_to_the_models_own_change_nothing() -> None:
    own = {"input_size": 224, "crop_pct": 0.9, "mean": (0.5,) * 3, "interpolation": "bicubic"}
    assert resolve("vit_b16", **own) == resolve("vit_b16")


def test_options_are_parsed_from_text() -> None:
    parse = PreprocessingOptions.parse
    assert parse() == PreprocessingOptions()
    assert parse(input_size="336", mean="0.5,0.25, 0", crop_pct=1.0) == PreprocessingOptions(
        input_size=336, mean=(0.5, 0.25, 0.0), crop_pct=1
    )
    assert parse(input_size="224x336").input_size == (224, 336)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"input_size": "224x"}, "input_size: expected H or HxW, got '224x'"),
        ({"input_size": "1x2x3"}, "input_size: expected H or HxW, got '1x2x3'"),
        ({"input_size": "0"}, r"input_size: expected positive whole numbers, got \(0, 0\)"),
        ({"crop_pct": 0}, "crop_pct: expected more than 0 and at most 1, got 0"),
        ({"crop_pct": 1.2}, "crop_pct: expected more than 0 and at most 1, got 1.2"),
        ({"crop_pct": float("nan")}, "crop_pct: expected more than 0"),
        ({"crop_mode": "zoom"}, "crop_mode center, squash, border, got 'zoom'"),
        ({"interpolation": "cubic"}, "interpolation nearest, .*, got 'cubic'"),
        ({"mean": "0.5"}, r"mean: expected 3 numbers, got \(0.5,\)"),
        ({"mean": "a,b,c"}, "mean: expected three numbers R,G,B, got 'a,b,c'"),
        ({"mean": "nan,0,0"}, "mean: expected numbers"),
        ({"std": "1,0,1"}, "std: expected positive numbers"),
    ],
)
def test_options_out_of_range_raise(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        PreprocessingOptions.parse(**options)
