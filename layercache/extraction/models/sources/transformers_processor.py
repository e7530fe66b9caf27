"""The image processor of a model of transformers as a `Preprocessing`.

The result equals that of its PIL backend to the bit; tests compare them. transformers' torchvision
backend resizes with other rounding.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from layercache.errors import BackboneError
from layercache.extraction.models.preprocessing.transform import RESAMPLING

PROCESSORS = (
    *("BeitImageProcessor", "BitImageProcessor", "CLIPImageProcessor", "DINOv3ViTImageProcessor"),
    *("DeiTImageProcessor", "SiglipImageProcessor", "ViTImageProcessor"),
)
"""Image processors that resize, crop and normalise only."""
WITHOUT_PIL = ("DINOv3ViTImageProcessor",)
"""Those of which transformers has no PIL backend."""
RESCALE = 1 / 255
"""The usual factor from uint8 to 0..1."""
USED = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale"),
    *("rescale_factor", "do_normalize", "image_mean", "image_std", "do_pad"),
)
"""Settings of a processor that change pixels."""
REMEDY = "give all of input_size, crop_pct, crop_mode, interpolation, mean and std instead"
"""Remedy for a processor that cannot be used."""


def read_processor(folder: Path, *, name: str) -> dict[str, Any]:
    """Return the settings of a folder's image processor, as transformers completes them.

    Args:
        folder: Folder of preprocessor_config.json.
        name: Name of the model, for errors.

    Returns:
        The settings in USED, and "image_processor_type".

    Raises:
        BackboneError: transformers cannot read it, or it is of an unknown kind.
    """
    try:
        with quiet():
            processor = _load_processor(folder)
    except Exception as e:  # transformers raises many kinds
        # a sentence: transformers lists all that it knows behind it
        reason = (str(e) or type(e).__name__).splitlines()[0].partition(". ")[0]
        raise BackboneError(
            f"{name}: transformers cannot read the image processor in {folder} ({reason}): {REMEDY}"
        ) from e
    kind = type(processor).__name__.removesuffix("Pil").removesuffix("Fast")
    if kind not in PROCESSORS:
        raise BackboneError(
            f"{name}: expected one of the image processors {', '.join(PROCESSORS)}, got {kind}: "
            f"{REMEDY}"
        )
    values = processor.to_dict()
    return {"image_processor_type": kind} | {key: values.get(key) for key in USED}


def _load_processor(folder: Path) -> Any:
    """Return a folder's image processor, with the PIL backend if it has one."""
    import transformers

    load = partial(
        transformers.AutoImageProcessor.from_pretrained,
        str(folder),
        local_files_only=True,
        trust_remote_code=False,
    )
    if int(transformers.__version__.split(".")[0]) >= 5:
        return load(backend="pil")
    try:  # before version 5 it is called so, and the other backend is no fallback
        return load(use_fast=False)
    except ValueError:
        return load(use_fast=True)


def data_config(
    settings: Mapping[str, Any], *, name: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a processor's settings as a data config of timm, and notes for the user.

    Args:
        settings: What `read_processor` returned.
        name: Name of the model, for errors.

    Raises:
        BackboneError: There is no such preprocessing.
    """
    kind = settings["image_processor_type"]
    size, crop = settings["size"] or {}, settings["crop_size"] or {}
    crops, notes = bool(settings["do_center_crop"]), []
    if not settings["do_resize"] or settings["do_pad"]:
        setting = "do_pad=True" if settings["do_pad"] else "do_resize=False"
        raise BackboneError(f"{name}: its {kind} has {setting}, so sizes differ: {REMEDY}")
    if set(size) == {"height", "width"}:
        frame, crop_mode = (size["height"], size["width"]), "squash"
    elif set(size) == {"shortest_edge"}:
        frame, crop_mode = (size["shortest_edge"],) * 2, "center"
        if not crops:
            notes.append(f"its {kind} crops nothing: here the long edge is cropped to a square")
    else:
        raise BackboneError(
            f"{name}: its {kind} resizes to {size}, expected 'height' and 'width', or "
            f"'shortest_edge' alone: {REMEDY}"
        )
    input_size = (crop["height"], crop["width"]) if crops else frame
    crop_pct = {resize_to_crop_pct(*pair) for pair in zip(input_size, frame, strict=True)}
    if len(crop_pct) > 1:
        raise BackboneError(
            f"{name}: its {kind} crops {input_size} of {frame}, expected one ratio for height and "
            f"width: {REMEDY}"
        )
    if kind in WITHOUT_PIL:
        notes.append(
            f"images are resized with PIL, to whole levels of 0..255; its {kind} resizes with "
            "torchvision, without rounding"
        )
    mean, std = _normalization(settings)
    config = {
        "input_size": (3, *input_size),
        "crop_pct": crop_pct.pop(),
        "crop_mode": crop_mode,
        "interpolation": _interpolation(settings["resample"], name=name),
        "mean": mean,
        "std": std,
    }
    return config, tuple(notes)


def resize_to_crop_pct(input_size: int, resize: int) -> float:
    """Return the crop_pct with floor(input_size / crop_pct) == resize."""
    crop_pct = input_size / resize
    while math.floor(input_size / crop_pct) != resize:
        crop_pct = math.nextafter(crop_pct, 0)
    return crop_pct


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from logging and from progress bars; its callers report what matters."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    has_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_bar:
            transformers_logging.enable_progress_bar()


def _normalization(
    settings: Mapping[str, Any],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of values in 0..1.

    With another factor f than 1/255, (f x - mean) / std = (x/255 - mean/(255 f)) / (std/(255 f)).
    """
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if settings["do_normalize"]:
        mean, std = _channels(settings["image_mean"]), _channels(settings["image_std"])
    factor = settings["rescale_factor"] if settings["do_rescale"] else 1.0
    if not math.isclose(factor, RESCALE):
        scale = 255 * factor
        mean = tuple(value / scale for value in mean)  # type: ignore[assignment]
        std = tuple(value / scale for value in std)  # type: ignore[assignment]
    return mean, std


def _channels(value: Any) -> tuple[float, float, float]:
    return (value,) * 3 if isinstance(value, int | float) else tuple(value)


def _interpolation(resample: Any, *, name: str) -> str:
    for interpolation, filter_ in RESAMPLING.items():
        if filter_ == resample:
            return interpolation
    raise BackboneError(f"{name}: its image processor has an unknown resample {resample!r}")
