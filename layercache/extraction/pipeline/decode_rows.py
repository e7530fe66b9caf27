"""The decoding of a few rows: what a worker process and the decoding thread have in common. Imports neither torch nor timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from layercache.errors import DataError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.pipeline.decode import open_image


class Transform(Protocol):
    """The half of a model's Preprocessing that happens where images are decoded. Picklable."""

    def resize_and_crop(self, image: Image.Image) -> np.ndarray[Any, Any]:
        """RGB image -> uint8 (3, H, W)."""
        ...


def decode_rows(
    samples: Samples,
    transforms: Sequence[Transform],
    out: Sequence[np.ndarray[Any, Any]],
    start: int,
    stop: int,
) -> dict[int, str]:
    """Open rows start..stop-1 once each and put transform k of row i into out[k][i - start].

    Returns row -> reason for the rows that could not be decoded; their pixels are zero.
    """
    failed: dict[int, str] = {}
    for row in range(start, stop):
        try:
            image = open_image(samples, row)
            for transform, pixels in zip(transforms, out, strict=True):
                pixels[row - start] = transform.resize_and_crop(image)
        except DataError as error:
            failed[row] = str(error)
        except MemoryError:
            raise
        except Exception as error:  # whatever a file can provoke must name the file
            failed[row] = (
                f"sample {samples.ids[row]!r} cannot be preprocessed: {error} ({type(error).__name__})"
            )
        if row in failed:
            for pixels in out:
                pixels[row - start] = 0
    return failed
