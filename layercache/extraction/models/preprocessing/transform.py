"""A model's own evaluation transform in two halves: resize and crop, then normalise.

Resize and crop happen where the image is decoded, normalisation where the model is, so pixels
travel as uint8, a quarter of the bytes. Both halves together give timm's
`create_transform(is_training=False)` to the bit. The first half is plain PIL and numpy; torch is
imported where it is used, so that worker processes need neither torch nor timm.

Shapes: B images, H x W pixels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
from PIL import Image

from layercache.errors import DataError, OptionError
from layercache.extraction.models.registry import CropMode

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Background = Literal["drop", "white", "black"]
CropRounding = Literal["nearest", "down"]
RESAMPLING = {
    name: Image.Resampling[name.upper()]
    for name in ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Everything between an RGB image and the model's input.

    Raises:
        OptionError: The interpolation, crop mode or background is unknown.
    """

    input_size: tuple[int, int]
    """(H, W) of the model's input."""
    resize: tuple[int, int]
    """(H, W) of the frame that the image is scaled to before the crop."""
    interpolation: str
    """Resampling filter: one of RESAMPLING."""
    crop_mode: CropMode
    """Scaling of the image to the frame.

    "center": fill the frame, keep the aspect ratio, cut the borders off (for a square frame, the
    short edge is scaled to it); "squash": stretch; "border": fit inside, pad with the mean.
    """
    mean: tuple[float, float, float]
    """Mean per channel, of values in 0..1."""
    std: tuple[float, float, float]
    """Standard deviation per channel, of values in 0..1."""
    background: Background = "drop"
    """Colour of transparent pixels, before the resize.

    "drop": the alpha channel is dropped, so the colours it hid appear; "white", "black": the image
    is composited on this colour.
    """
    crop_rounding: CropRounding = "nearest"
    """Rounding of half a pixel in the offset of the crop.

    "nearest": as timm and torchvision do, to the even number; "down": as transformers does (up, in
    the offset of a padded image).
    """

    def __post_init__(self) -> None:
        check_choices(
            interpolation=self.interpolation,
            crop_mode=self.crop_mode,
            background=self.background,
            crop_rounding=self.crop_rounding,
        )

    @classmethod
    def from_timm(cls, config: dict[str, Any]) -> Self:
        """Return the preprocessing of a data config (`timm.data.resolve_data_config`)."""
        height, width = config["input_size"][1:]
        crop_pct = config["crop_pct"] or 0.875  # timm's own default
        return cls(
            input_size=(height, width),
            resize=(math.floor(height / crop_pct), math.floor(width / crop_pct)),
            interpolation=config["interpolation"],
            crop_mode=config["crop_mode"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the preprocessing that `to_json` recorded.

        Raises:
            OptionError: The values are not such a record.
        """
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        try:
            return cls(**fields)
        except TypeError as error:
            raise OptionError(f"preprocessing: not a complete record ({error})") from None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, for the cache's spec.

        Fields that were added later are left out if they have their defaults, as in older caches.
        """
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        for name, default in (("background", "drop"), ("crop_rounding", "nearest")):
            if values[name] == default:
                del values[name]
        return values

    def __str__(self) -> str:
        resize = describe_resize(
            resize=self.resize,
            input_size=self.input_size,
            interpolation=self.interpolation,
            crop_mode=self.crop_mode,
        )
        mean, std = (",".join(map(str, values)) for values in (self.mean, self.std))
        background = "" if self.background == "drop" else f", {self.background} background"
        rounding = "" if self.crop_rounding == "nearest" else ", crop offset rounded down"
        return f"{resize}, mean {mean}, std {std}{background}{rounding}"

    def resize_and_crop(self, image: Image.Image) -> np.ndarray[Any, Any]:
        """Return an RGB image as uint8 (3, H, W), resized and cropped, not normalised.

        Raises:
            DataError: The image has another mode than RGB, or is so narrow that it would be
                scaled to more pixels than PIL's limit.
        """
        if image.mode != "RGB":
            raise DataError(
                f"preprocessing: expected an RGB image, got mode {image.mode!r}: "
                "convert it when it is decoded"
            )
        height, width = self._resized_size(image.height, image.width)
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and height * width > limit:
            raise DataError(
                f"its {image.width} x {image.height} pixels would be scaled to {width} x {height}, "
                f"expected at most {limit} pixels: cut it to a less extreme shape"
            )
        if (image.width, image.height) != (width, height):
            image = image.resize((width, height), RESAMPLING[self.interpolation])
        fill = tuple(round(255 * v) for v in self.mean) if self.crop_mode == "border" else (0, 0, 0)
        image = _center_crop_or_pad(
            image, self.input_size, fill=fill, rounds_down=self.crop_rounding == "down"
        )
        return np.asarray(image).transpose(2, 0, 1)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise uint8 (B, 3, H, W) to float32 on the same device.

        The float32 operations and their order are torchvision's.
        """
        import torch

        constants = _constants if images.device.type == "cpu" else _cached_constants
        mean, std = constants((self.mean, self.std), images.device)
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (H, W) after the resize, rounded as timm and torchvision round."""
        frame_height, frame_width = self.resize
        if self.crop_mode == "squash":
            return self.resize
        if self.crop_mode == "center" and frame_height == frame_width:
            long_edge = int(frame_height * max(height, width) / min(height, width))
            return (frame_height, long_edge) if height <= width else (long_edge, frame_height)
        ratios = height / frame_height, width / frame_width
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
        return round(height / ratio), round(width / ratio)


def check_choices(**values: str | None) -> None:
    """Raise OptionError if a value of `Preprocessing` is unknown; None passes."""
    choices = {
        "interpolation": tuple(RESAMPLING),
        "crop_mode": get_args(CropMode),
        "background": get_args(Background),
        "crop_rounding": get_args(CropRounding),
    }
    for name, value in values.items():
        if value is not None and value not in choices[name]:
            raise OptionError(
                f"preprocessing: expected {name} {', '.join(choices[name])}, got {value!r}"
            )


def describe_resize(
    *,
    resize: tuple[int, int],
    input_size: tuple[int, int],
    interpolation: str,
    crop_mode: CropMode,
) -> str:
    """Return a description of the resize and crop; the arguments are fields of `Preprocessing`."""
    frame = format_size(resize)
    if crop_mode == "center":
        square = resize[0] == resize[1]
        scaled = f"short edge to {resize[0]}" if square else f"scaled to fill {frame}"
    else:
        scaled = f"{'stretched to' if crop_mode == 'squash' else 'fitted into'} {frame}"
    return f"{scaled} ({interpolation}), center crop of {format_size(input_size)}"


def format_size(size: Sequence[int]) -> str:
    """Return (H, W) as "H x W"."""
    return " x ".join(map(str, size))


def _constants(rows: tuple[tuple[float, ...], ...], device: torch.device) -> Tensor:
    """Return float32 (rows, 3, 1, 1)."""
    import torch

    with torch.inference_mode(False):
        return torch.tensor(rows, dtype=torch.float32, device=device)[:, :, None, None]


# On a GPU, copying even three numbers waits for all pending work, and the host could not run ahead.
_cached_constants = functools.cache(_constants)


def _center_crop_or_pad(
    image: Image.Image, size: tuple[int, int], *, fill: tuple[int, ...], rounds_down: bool
) -> Image.Image:
    """Return the central (H, W) of the image, which is padded with `fill` first if smaller."""
    height, width = size
    if image.height < height or image.width < width:
        padded = Image.new("RGB", (max(width, image.width), max(height, image.height)), fill)
        margins = max(0, width - image.width), max(0, height - image.height)
        halve = math.ceil if rounds_down else math.floor
        padded.paste(image, (halve(margins[0] / 2), halve(margins[1] / 2)))
        image = padded
    if (image.height, image.width) == size:
        return image
    offset = math.floor if rounds_down else round
    top, left = offset((image.height - height) / 2), offset((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
