"""Options that replace parts of a model's own preprocessing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from layercache.errors import OptionError
from layercache.extraction.models.preprocessing.transform import check_choices, format_size
from layercache.extraction.models.registry import CropMode

Channels = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class PreprocessingOptions:
    """Parts of a model's preprocessing to replace; None keeps the model's own.

    Raises:
        OptionError: A value is out of range.
    """

    input_size: int | tuple[int, int] | None = None
    """Side of the square input or (H, W), in pixels: a multiple of the model's patches."""
    crop_pct: float | None = None
    """Side of the crop over that of the resized image, in (0, 1]."""
    crop_mode: CropMode | None = None
    """Scaling of the image: "center", "squash" or "border"; see `Preprocessing.crop_mode`."""
    interpolation: str | None = None
    """Resampling filter: "nearest", "bilinear", "bicubic", "box", "hamming" or "lanczos"."""
    mean: Channels | None = None
    """Mean per channel, of values in 0..1."""
    std: Channels | None = None
    """Standard deviation per channel, of values in 0..1."""

    def __post_init__(self) -> None:
        size = self.input_size
        if size is not None:
            height, width = (size, size) if isinstance(size, int) else _tuple("input_size", size, 2)
            if not all(type(n) is int and n > 0 for n in (height, width)):
                raise OptionError(f"input_size: expected positive whole numbers, got {size!r}")
            object.__setattr__(self, "input_size", (height, width))
        if self.crop_pct is not None:
            if not 0 < self.crop_pct <= 1:
                raise OptionError(
                    f"crop_pct: expected more than 0 and at most 1, got {self.crop_pct}"
                )
            object.__setattr__(self, "crop_pct", float(self.crop_pct))
        check_choices(interpolation=self.interpolation, crop_mode=self.crop_mode)
        for name in ("mean", "std"):
            if getattr(self, name) is None:
                continue
            values = tuple(float(v) for v in _tuple(name, getattr(self, name), 3))
            if not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
                expected = "positive numbers" if name == "std" else "numbers"
                raise OptionError(f"{name}: expected {expected}, got {values}")
            object.__setattr__(self, name, values)

    @classmethod
    def parse(
        cls,
        *,
        input_size: str | None = None,
        mean: str | None = None,
        std: str | None = None,
        **options: Any,
    ) -> Self:
        """Return the options of a command line.

        Args:
            input_size: "H" or "HxW".
            mean: "R,G,B".
            std: "R,G,B".
            **options: The other fields.

        Raises:
            OptionError: A text cannot be read, or a value is out of range.
        """
        size = None
        if input_size is not None:
            sides = input_size.lower().split("x")
            if len(sides) > 2 or not all(side.strip().isdecimal() for side in sides):
                raise OptionError(f"input_size: expected H or HxW, got {input_size!r}")
            size = (int(sides[0]), int(sides[-1]))
        channels: dict[str, Any] = {}
        for name, text in (("mean", mean), ("std", std)):
            if text is not None:
                try:
                    channels[name] = tuple(float(word) for word in text.split(","))
                except ValueError:
                    raise OptionError(
                        f"{name}: expected three numbers R,G,B, got {text!r}"
                    ) from None
        return cls(input_size=size, **channels, **options)

    @property
    def is_complete(self) -> bool:
        """Return whether every field is given, so that no preprocessing of the model is needed."""
        return all(getattr(self, field.name) is not None for field in fields(self))

    def given(self) -> dict[str, Any]:
        """Return the fields that are not None, as plain JSON values."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values if v is not None}

    def replace_in(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a data config of timm with these options."""
        replaced = dict(config) | self.given()
        if self.input_size is not None:
            replaced["input_size"] = (3, *replaced["input_size"])
        return replaced


def check_divisible(size: Sequence[int], patch: Sequence[int], *, model: str) -> None:
    """Raise OptionError, with the nearest sizes, if patches do not divide an input size (H, W)."""
    if all(side % p == 0 for side, p in zip(size, patch, strict=True)):
        return
    smaller = [max(side // p, 1) * p for side, p in zip(size, patch, strict=True)]
    larger = [-(-side // p) * p for side, p in zip(size, patch, strict=True)]
    nearest = dict.fromkeys(map(format_size, (smaller, larger)))
    raise OptionError(
        f"input_size: {model} has patches of {format_size(patch)}, which do not divide "
        f"{format_size(size)}: choose {' or '.join(nearest)}"
    )


def _tuple(name: str, value: Any, length: int) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != length:
        raise OptionError(f"{name}: expected {length} numbers, got {value!r}")
    return tuple(value)
