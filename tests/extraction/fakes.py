"""A dataset with distinct images, and a backbone whose tokens are a known function of pixels."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from layercache.extraction.datasets.in_memory import InMemoryDataset
from layercache.extraction.models.preprocessing.transform import Preprocessing

if TYPE_CHECKING:
    import torch  # imported where it is used, since decoding workers import this file

SIDE = 6
SMALL = Preprocessing(
    input_size=(SIDE, SIDE),
    resize=(SIDE, SIDE),
    interpolation="bicubic",
    crop_mode="center",
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
)
LARGE = Preprocessing(
    input_size=(9, 9),
    resize=(9, 9),
    interpolation="bilinear",
    crop_mode="squash",
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
)


def image(n: int) -> np.ndarray[Any, Any]:
    """Return uint8 (SIDE, SIDE, 3), different for every n."""
    return np.random.default_rng(n).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


@dataclass(frozen=True)
class Pictures:
    """Samples 0..rows-1 that are generated when loaded; some fail."""

    rows: int
    first: int = 0
    broken: frozenset[int] = frozenset()
    deadly: frozenset[int] = frozenset()
    """Rows that kill the decoding process."""
    log: str | None = None
    """File to which every load appends a line."""

    @property
    def ids(self) -> list[str]:
        return [f"pic/{self.first + i:04d}" for i in range(self.rows)]

    @property
    def labels(self) -> np.ndarray[Any, Any]:
        return np.arange(self.rows, dtype=np.int64) % 3

    @property
    def content_digest(self) -> str:
        return f"bytes:{self.first}:{self.rows}"

    def load(self, row: int) -> Image.Image:
        if self.log:
            with open(self.log, "a") as f:
                f.write(f"{self.first + row}\n")
        if row in self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if row in self.broken:
            return Image.open(io.BytesIO(b"no image"))
        return Image.fromarray(image(self.first + row))

    def take(self, rows: np.ndarray[Any, Any]) -> Pictures:
        raise NotImplementedError


def dataset(splits: Mapping[str, Any] | None = None, name: str = "pictures") -> InMemoryDataset:
    return InMemoryDataset(
        name=name,
        classes=("a", "b", "c"),
        samples=splits or {"train": Pictures(53), "test": Pictures(20, first=1000)},
    )


@dataclass
class FakeBackbone:
    """Two layers, two tokens, width 4.

    Token t of layer l is (t + 1) times the first four red pixels, plus l.
    """

    name: str = "fake"
    preprocessing: Preprocessing = SMALL
    layers: tuple[int, ...] = (1, 2)
    poison: float | None = None
    """Value of a token of the image whose first pixel is `poison_at`."""
    poison_at: int = -1
    weights_digest: str = "d" * 64
    architecture: str = "fake_arch"
    depth: int = 2
    width: int = 4
    tap: str = "norm2"
    tokens: tuple[str, ...] = ("cls", "ap")
    projected: bool = False
    precision: str = "fp32"
    storage_dtype: str = "float16"
    notes: tuple[str, ...] = ()
    spatial: None = None
    token_encoder: None = None
    seen: list[int] = field(default_factory=list)
    """Size of every batch."""

    @property
    def module(self) -> FakeBackbone:
        return self

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        import torch

        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, *self.preprocessing.input_size)
        self.seen.append(len(images))
        red = images[:, 0].reshape(len(images), -1)[:, :4].float()
        out = torch.stack(
            [torch.stack([(t + 1) * red + layer for t in range(2)]) for layer in self.layers]
        )
        if self.poison is not None:
            out[-1, 1, images[:, 0, 0, 0] == self.poison_at, 2] = self.poison
        return out.half()

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def bare_forward(self, images: torch.Tensor) -> None:
        self.kept = self(images)

    def collect(self) -> torch.Tensor:
        return self.kept

    def forget(self) -> None:
        pass


def expected(
    samples: Pictures, preprocessing: Preprocessing = SMALL, layers: tuple[int, ...] = (1, 2)
) -> np.ndarray[Any, Any]:
    """Compute FakeBackbone's tokens without the pipeline, float16 (L, T, N, 4)."""
    red = np.stack(
        [
            preprocessing.resize_and_crop(Image.fromarray(image(samples.first + i)))[0].ravel()[:4]
            for i in range(samples.rows)
        ]
    )
    return np.stack(
        [np.stack([(t + 1) * red.astype(np.float32) + layer for t in range(2)]) for layer in layers]
    ).astype(np.float16)


def tree(folder: Path) -> dict[str, bytes]:
    """Return relative path -> bytes of every file below a folder."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
