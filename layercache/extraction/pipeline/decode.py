"""One sample as the RGB image that a ViT's usual pipeline sees.

That is torchvision's `pil_loader`, PIL's `convert("RGB")`, except where it is wrong:

| stored as                          | becomes |
|------------------------------------|---------|
| grey, 1 bit, palette, CMYK, YCbCr  | PIL's conversion |
| alpha (RGBA, LA, palette)          | alpha is dropped, as the usual pipeline does |
| 16-bit grey                        | its high byte, as PIL itself reads 16-bit colour; the usual pipeline would clip at 255 |
| several frames                     | the first |
| EXIF orientation                   | not applied, as the usual pipeline does |
| truncated, empty, not an image, 32-bit integer or float pixels, above PIL's pixel limit | refused, DataError with the id |
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from layercache.errors import DataError
from layercache.extraction.datasets.base import Samples


def open_image(samples: Samples, row: int, *, draft: tuple[int, int] | None = None) -> Image.Image:
    """Image `row`, mode RGB. Raises DataError, naming the sample, for whatever cannot be decoded.

    `draft` (height, width) allows a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size as long as that is no smaller: faster, other pixels.
    """
    try:
        with _quiet(), samples.load(row) as image:
            if draft is not None:
                image.draft("RGB", (draft[1], draft[0]))
            return rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, ValueError, struct.error, IndexError ...
        raise DataError(
            f"sample {samples.ids[row]!r} cannot be decoded: {_reason(error)}"
        ) from error


def rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB, as the table above says. Raises ValueError for pixels without a fixed white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = np.asarray(image.convert("I")) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are {'32-bit integers' if image.mode == 'I' else 'floats'}, which have no fixed white: store it with 8 or 16 bits"
        )
    if image.mode == "RGB":
        image.load()  # convert() would copy what is RGB already: 5 % of the time that a JPEG of 500 x 375 takes
        return image
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "PIL knows no image format that starts like this file (not an image, or empty)"
    return f"{error or 'no reason given'} ({type(error).__name__})"


_lock = threading.Lock()
_inside = 0
_filters = warnings.catch_warnings()


@contextmanager
def _quiet() -> Iterator[None]:
    """No Python warning from PIL (large image, odd EXIF, palette transparency) in here, in any number of threads.

    The first thread in sets the filter and the last one out restores what was before: catch_warnings in each thread would restore the
    wrong filters when threads leave in another order than they came.
    """
    global _inside, _filters
    with _lock:
        if _inside == 0:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("ignore")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _filters.__exit__(None, None, None)
