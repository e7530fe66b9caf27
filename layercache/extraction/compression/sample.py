"""A sample of the tokens of the training images, on which a codec is fitted.

The rows are spread evenly over the split, and the places within an image are drawn from a fixed
seed, so that a repeated run draws the same sample, whatever has been extracted already.

Shapes: L layers, T tokens of a layer, b images of a batch, n tokens of the sample, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layercache.errors import DataError
from layercache.extraction.datasets.base import Dataset
from layercache.extraction.pipeline.decode import RowRange, Transform, decode_rows

SAMPLE_IMAGES = 256
"""Images whose tokens are taken."""
SAMPLE_TOKENS = 32_768
"""Tokens of each layer that are kept of them."""
BATCH = 32

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TokenSample:
    """Tokens of the sample."""

    tokens_lnd: Tensor
    """Some tokens of every image, float32 (L, n, D)."""
    low_ld: Tensor
    """Smallest value of each layer and channel over all tokens of the images, float32 (L, D)."""
    high_ld: Tensor
    """Largest value of each layer and channel over all tokens of the images, float32 (L, D)."""
    images: int
    """Number of images."""
    split: str
    """Split that they are taken from."""


def sample_tokens(
    dataset: Dataset,
    forward: Callable[[Tensor], Tensor],
    *,
    transform: Transform,
    shape: tuple[int, int, int],
    skip_failures: bool,
) -> TokenSample:
    """Return the tokens of a sample of the split train, or of the first split.

    Args:
        dataset: The dataset.
        forward: uint8 images (b, 3, H, W) -> tokens (L, T, b, D).
        transform: Makes pixels of an image.
        shape: (3, H, W).
        skip_failures: Leave out images that cannot be decoded.

    Raises:
        DataError: An image cannot be decoded, or with `skip_failures` none can.
    """
    split = "train" if "train" in dataset.splits else dataset.splits[0]
    samples = dataset.split(split)
    n_rows = len(samples.labels)
    rows = np.unique(np.linspace(0, n_rows - 1, min(SAMPLE_IMAGES, n_rows)).round().astype(int))
    generator = torch.Generator().manual_seed(0)
    kept: list[Tensor] = []
    lows: list[Tensor] = []
    highs: list[Tensor] = []
    images = 0
    for first in range(0, len(rows), BATCH):
        batch = [
            pixels
            for row in rows[first : first + BATCH].tolist()
            if (pixels := _decode(samples, transform, row, shape, skip_failures)) is not None
        ]
        if not batch:
            continue
        images += len(batch)
        tokens = forward(torch.from_numpy(np.stack(batch))).float().flatten(1, 2)
        tokens = tokens[:, tokens.isfinite().all(-1).all(0)]  # the writer names such a token
        if not tokens.shape[1]:
            continue
        lows.append(tokens.amin(1))
        highs.append(tokens.amax(1))
        per_batch = max(1, SAMPLE_TOKENS * len(batch) // len(rows))
        drawn = torch.randperm(tokens.shape[1], generator=generator)[:per_batch]
        kept.append(tokens[:, drawn.to(tokens.device)])
    if not kept:
        raise DataError(
            f"split {split!r}: none of the {len(rows)} images of the sample, on which the codec of "
            "the tokens is fitted, can be used: check the images and the checkpoint"
        )
    return TokenSample(
        tokens_lnd=torch.cat(kept, 1),
        low_ld=torch.stack(lows).amin(0),
        high_ld=torch.stack(highs).amax(0),
        images=images,
        split=split,
    )


def _decode(
    samples: object,
    transform: Transform,
    row: int,
    shape: tuple[int, int, int],
    skip_failures: bool,
) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]] | None:
    out = np.zeros((1, *shape), np.uint8)
    decoded = decode_rows(samples, [transform], RowRange(row, row + 1), [out])  # type: ignore[arg-type]
    if not decoded.failures:
        pixels: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]] = out[0]
        return pixels
    if skip_failures:
        return None
    raise DataError(
        f"{decoded.failures[row]}. on_error='skip' leaves such images out and lists them in the "
        "cache"
    )
