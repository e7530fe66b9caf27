"""A model's own evaluation transform, cut in two: resize and crop to uint8 where the image is decoded, normalise where the model is.

Pixels travel as uint8, a quarter of the bytes. Both halves together give timm's `create_transform(is_training=False)` to the bit;
the first half is plain PIL and numpy, and torch is imported where it is used: a worker process needs neither torch nor timm.

Shapes: B images, H x W pixels.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image

from layercache.errors import DataError, OptionError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CropMode = Literal["center", "squash", "border"]
RESAMPLING = {
    name: Image.Resampling[name.upper()]
    for name in ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Everything between an RGB image and the model's input."""

    input_size: tuple[int, int]
    """(H, W) of the model's input."""
    resize: tuple[int, int]
    """(H, W) of the frame that the image is scaled to before the crop; "center" scales the short edge to it and keeps the ratio."""
    interpolation: str
    """PIL's resampling: one of RESAMPLING."""
    crop_mode: CropMode
    """"center": fill the frame, keep the ratio, lose the borders; "squash": stretch to the frame; "border": fit inside, pad with the mean."""
    mean: tuple[float, float, float]
    """Per channel, of values in 0..1."""
    std: tuple[float, float, float]
    """Per channel, of values in 0..1."""

    def __post_init__(self) -> None:
        if self.interpolation not in RESAMPLING:
            raise OptionError(
                f"preprocessing: interpolation must be one of {', '.join(RESAMPLING)}, got {self.interpolation!r}"
            )
        if self.crop_mode not in get_args(CropMode):
            raise OptionError(
                f"preprocessing: crop_mode must be one of {', '.join(get_args(CropMode))}, got {self.crop_mode!r}"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the cache's spec."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB image as a uint8 tensor (3, H, W): see `pixels`."""
        import torch

        return torch.from_numpy(self.pixels(image).copy())

    def pixels(self, image: Image.Image) -> np.ndarray[Any, Any]:
        """An RGB image as uint8 (3, H, W): resized and cropped, not normalised. Raises DataError for another PIL mode."""
        if image.mode != "RGB":
            raise DataError(
                f"preprocessing expects an RGB image, got mode {image.mode!r}: convert it when it is decoded"
            )
        height, width = self._resized(image.height, image.width)
        if (image.width, image.height) != (width, height):
            image = image.resize((width, height), RESAMPLING[self.interpolation])
        fill = tuple(round(255 * v) for v in self.mean) if self.crop_mode == "border" else (0, 0, 0)
        image = _crop_or_pad(image, self.input_size, fill=fill)
        return np.asarray(image).transpose(2, 0, 1)

    def normalise(self, batch: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32, on the batch's device, with the same float32 operations in the same order as torchvision."""
        import torch

        constants = _constants if batch.device.type == "cpu" else _device_constants
        mean, std = constants((self.mean, self.std), batch.device)
        return batch.to(torch.float32).div_(255).sub_(mean).div_(std)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) after the resize, rounded as timm and torchvision round."""
        frame_h, frame_w = self.resize
        if self.crop_mode == "squash":
            return frame_h, frame_w
        if self.crop_mode == "center" and frame_h == frame_w:
            long = int(frame_h * max(height, width) / min(height, width))
            return (frame_h, long) if height <= width else (long, frame_h)
        ratios = height / frame_h, width / frame_w
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
        return round(height / ratio), round(width / ratio)


def resolve(config: dict[str, Any]) -> Preprocessing:
    """From timm's resolved data config (`timm.data.resolve_data_config`)."""
    size = config["input_size"][1:]
    crop_pct = config["crop_pct"] or 0.875  # timm's own default
    return Preprocessing(
        input_size=(size[0], size[1]),
        resize=(math.floor(size[0] / crop_pct), math.floor(size[1] / crop_pct)),
        interpolation=config["interpolation"],
        crop_mode=config["crop_mode"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def paper_compat(own: Preprocessing) -> Preprocessing:
    """The transform that the paper's extractor gives DINOv2 and MAE: bilinear to 256, centre crop of 224 (their own mean and std)."""
    return Preprocessing(
        input_size=(224, 224),
        resize=(256, 256),
        interpolation="bilinear",
        crop_mode="center",
        mean=own.mean,
        std=own.std,
    )


def _constants(rows: tuple[tuple[float, ...], ...], device: torch.device) -> Tensor:
    """float32 (rows, 3, 1, 1)."""
    import torch

    with torch.inference_mode(False):
        return torch.tensor(rows, dtype=torch.float32, device=device)[:, :, None, None]


_device_constants = functools.cache(_constants)
"""On a GPU, made once: copying even three numbers waits for all that the device has to do, and the host could not run ahead."""


def _crop_or_pad(
    image: Image.Image, size: tuple[int, int], *, fill: tuple[int, ...]
) -> Image.Image:
    """The central (H, W) of the image; where it is smaller, padded with `fill` first."""
    height, width = size
    if image.height < height or image.width < width:
        padded = Image.new("RGB", (max(width, image.width), max(height, image.height)), fill)
        padded.paste(image, (max(0, width - image.width) // 2, max(0, height - image.height) // 2))
        image = padded
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return (
        image
        if (image.height, image.width) == size
        else image.crop((left, top, left + width, top + height))
    )
