"""Images for benchmarks: arrays at the model's input size, and JPEG files of ImageNet's size."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

NUM_DISTINCT = 128
"""Number of distinct images; further rows repeat them."""


class Numbered:
    """Samples named by row number, in two classes."""

    rows: int

    @property
    def ids(self) -> list[str]:
        return [f"{i:07d}" for i in range(self.rows)]

    @property
    def labels(self) -> np.ndarray[Any, Any]:
        return np.arange(self.rows, dtype=np.int64) % 2


@dataclass(frozen=True)
class Decoded(Numbered):
    """`rows` images of side x side pixels that need neither decoding nor resizing."""

    rows: int
    side: int

    @property
    def content_digest(self) -> str:
        return f"bytes:{self.rows}x{self.side}"

    def load(self, row: int) -> Image.Image:
        return Image.fromarray(_arrays(self.side)[row % NUM_DISTINCT])

    def take(self, rows: np.ndarray[Any, Any]) -> Decoded:
        raise NotImplementedError


@dataclass(frozen=True)
class Files(Numbered):
    """`rows` samples that cycle through the JPEG files of a folder."""

    folder: str
    rows: int

    @property
    def content_digest(self) -> str:
        return f"bytes:{self.rows}"

    def path(self, row: int) -> Path:
        return Path(self.folder) / f"{row % NUM_DISTINCT:04d}.jpg"

    def load(self, row: int) -> Image.Image:
        return Image.open(self.path(row))

    def take(self, rows: np.ndarray[Any, Any]) -> Files:
        raise NotImplementedError


@functools.cache
def _arrays(side: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (NUM_DISTINCT, side, side, 3), np.uint8)


def write_jpegs(folder: Path) -> float:
    """Write NUM_DISTINCT JPEG files of 500 x 375 pixels and return their mean size in kB.

    Shapes, a gradient and noise at quality 93 give about the 110 kB of an ImageNet file.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(NUM_DISTINCT):
        image = Image.new("RGB", (500, 375), tuple(rng.integers(0, 256, 3).tolist()))
        draw = ImageDraw.Draw(image)
        for _ in range(60):
            x, y, w, h = (int(v) for v in rng.integers(0, (500, 375, 150, 150)))
            (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(
                (x, y, x + w, y + h), fill=tuple(rng.integers(0, 256, 3).tolist())
            )
        pixels = (
            np.asarray(image, np.float32)
            + np.linspace(-40, 40, 500)[None, :, None]
            + rng.normal(0, 13, (375, 500, 1))
        )
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
            folder / f"{n:04d}.jpg", quality=93
        )
    return sum(f.stat().st_size for f in folder.glob("*.jpg")) / NUM_DISTINCT / 1000
