"""Decoding of samples to RGB images and pixel arrays. Imports neither torch nor timm.

An image is converted as by torchvision's `pil_loader` (PIL's `convert("RGB")`), with one
correction:

| stored as                         | becomes                                       |
|-----------------------------------|-----------------------------------------------|
| grey, 1 bit, palette, CMYK, YCbCr | PIL's conversion                              |
| alpha, transparent colour         | alpha dropped, as in `pil_loader`, or         |
|                                   | composited on white or black                  |
| 16-bit grey                       | its high byte; `pil_loader` clips it at 255   |
| 12-bit grey (TIFF)                | its highest 8 bits                            |
| several frames                    | the first frame                               |
| EXIF orientation                  | not applied, as in `pil_loader`               |

PIL itself reads 16-bit colour as its high byte. Truncated or empty files, files that are no image,
32-bit integer or float pixels, 16-bit pixels that use at most 12 bits (almost black) and images
above PIL's pixel limit raise DataError with the sample's id. Memory that runs out raises
WorkerError.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from layercache.errors import DataChangedError, DataError, WorkerError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.datasets.file_kinds import UNKNOWN_FORMAT
from layercache.extraction.models.preprocessing.transform import Background

BITS_PER_SAMPLE = 258
"""Tag of a TIFF."""


class RowRange(NamedTuple):
    """Rows start..stop-1 of a split."""

    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


class Transform(Protocol):
    """The part of a model's preprocessing that runs where images are decoded. Picklable."""

    @property
    def background(self) -> Background:
        """Colour of transparent pixels; the same for all transforms of a run."""
        ...

    def resize_and_crop(self, image: Image.Image) -> np.ndarray[Any, Any]:
        """Return an RGB image as uint8 (3, H, W)."""
        ...


class DecodedRows(NamedTuple):
    """Notes on rows that were decoded."""

    failures: dict[int, str]
    """Row -> reason for the rows that could not be decoded; their pixels are zero."""
    transparent: int
    """Number of images with transparent pixels."""


def decode_rows(
    samples: Samples,
    transforms: Sequence[Transform],
    rows: RowRange,
    out: Sequence[np.ndarray[Any, Any]],
) -> DecodedRows:
    """Open every row once and write the result of transform k for row i to out[k][i - rows.start].

    Args:
        samples: Samples of the split.
        transforms: Transforms to apply to every image.
        rows: Rows to decode.
        out: One uint8 array (rows, 3, H, W) per transform.

    Raises:
        DataChangedError: An image is not what it was when the dataset was opened.
    """
    failures: dict[int, str] = {}
    transparent = 0
    for row in range(rows.start, rows.stop):
        pixels = [array[row - rows.start] for array in out]
        try:
            transparent += _decode_row(samples, row, transforms, pixels)
        except DataChangedError:
            raise
        except DataError as error:
            failures[row] = str(error)
            for zeroed in pixels:
                zeroed[:] = 0
    return DecodedRows(failures, transparent)


def _decode_row(
    samples: Samples,
    row: int,
    transforms: Sequence[Transform],
    out: Sequence[np.ndarray[Any, Any]],
) -> bool:
    """Write the result of every transform; whatever fails is a DataError that names the sample.

    Returns whether the image has transparent pixels.
    """
    image, transparent = _open_image(samples, row, background=transforms[0].background)
    try:
        for transform, pixels in zip(transforms, out, strict=True):
            pixels[:] = transform.resize_and_crop(image)
    except MemoryError as error:
        raise _out_of_memory(samples, row) from error
    except Exception as error:  # whatever a file can provoke must name the file
        reason = f"{error}" if isinstance(error, DataError) else _reason(error)
        raise DataError(f"sample {samples.ids[row]!r} cannot be preprocessed: {reason}") from error
    return transparent


def _out_of_memory(samples: Samples, row: int) -> WorkerError:
    """Return the error for memory that ran out: the machine's fault, so the sample stays."""
    return WorkerError(
        f"sample {samples.ids[row]!r}: the memory did not suffice to decode it: free memory, or "
        "use fewer decoding processes (`workers`)"
    )


def open_image(
    samples: Samples,
    row: int,
    *,
    draft: tuple[int, int] | None = None,
    background: Background = "drop",
) -> Image.Image:
    """Decode one sample.

    Args:
        samples: Samples of the split.
        row: Row of the sample.
        draft: (height, width). Allows a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size as long
            as the result is no smaller than this: faster, with slightly different pixels.
        background: What transparent pixels become.

    Returns:
        The image in mode RGB.

    Raises:
        DataError: The sample cannot be decoded, or is not what it was when the dataset was opened
            (DataChangedError); the message names its id.
    """
    return _open_image(samples, row, draft=draft, background=background)[0]


def _open_image(
    samples: Samples,
    row: int,
    *,
    draft: tuple[int, int] | None = None,
    background: Background,
) -> tuple[Image.Image, bool]:
    """Decode one sample; return it in mode RGB, and whether it has transparent pixels."""
    try:
        with _ignore_warnings(), samples.load(row) as image:
            if draft is not None:
                image.draft("RGB", (draft[1], draft[0]))
            return _convert(image, background=background)
    except MemoryError as error:
        raise _out_of_memory(samples, row) from error
    except DataChangedError as error:
        raise DataChangedError(
            f"sample {samples.ids[row]!r} has changed since the dataset was opened: {error}. "
            "The same command continues if every image is again as it was, and otherwise makes "
            "another cache of the images as they then are"
        ) from error
    except (
        Exception
    ) as error:  # PIL: OSError, SyntaxError, ValueError, struct.error, IndexError ...
        raise DataError(
            f"sample {samples.ids[row]!r} cannot be decoded: {_reason(error)}"
        ) from error


def to_rgb(image: Image.Image, *, background: Background = "drop") -> Image.Image:
    """Return the image in mode RGB, converted as in the table above.

    Raises:
        ValueError: The pixels are 32-bit integers or floats, which have no defined white.
    """
    return _convert(image, background=background)[0]


def _convert(image: Image.Image, *, background: Background) -> tuple[Image.Image, bool]:
    """Return the image in mode RGB, and whether it has transparent pixels."""
    rgb, opacity = _drop_alpha(image), _opacity(image)
    if opacity is None or opacity.getextrema() == (255, 255):
        return rgb, False
    if background != "drop":
        canvas = Image.new("RGB", rgb.size, background)
        canvas.paste(rgb, mask=opacity)
        rgb = canvas
    return rgb, True


def _opacity(image: Image.Image) -> Image.Image | None:
    """Return the opacity of every pixel, mode L, or None if the image cannot be transparent."""
    if not image.has_transparency_data:
        return None
    if image.mode.startswith("I;16"):  # PIL has no alpha for these
        opaque = np.asarray(image) != image.info["transparency"]
        return Image.fromarray(opaque.astype(np.uint8) * np.uint8(255))
    if "A" not in image.getbands():
        image = image.convert("RGBA")
    return image.getchannel("A")


def _drop_alpha(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = np.asarray(image.convert("I"))
        bits = _stored_bits(image)
        if bits == 16 and 0 < grey.max() < 1 << 12:
            raise ValueError(
                f"its 16-bit pixels are at most {grey.max()}, as if it had 12 bits or less, and "
                "would be almost black: scale them to 0..65535, or store it with 8 bits"
            )
        grey = grey >> (bits - 8)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floats"
        raise ValueError(
            f"its pixels are {kind}, which have no fixed white: store it with 8 or 16 bits"
        )
    if image.mode == "RGB":
        image.load()  # convert() would copy: 5 % of the decoding time of a 500 x 375 JPEG
        return image
    return image.convert("RGB")


def _stored_bits(image: Image.Image) -> int:
    """Return the bits per pixel of a deep grey image: 12 of some TIFFs, else 16."""
    tags = getattr(image, "tag_v2", {})
    return 12 if tuple(tags.get(BITS_PER_SAMPLE, ())) == (12,) else 16


def _reason(error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        # PIL's own message is "cannot identify image file" and an address in memory
        if str(error).startswith("cannot identify"):
            return UNKNOWN_FORMAT
        return str(error)
    return f"{error or 'no reason given'} ({type(error).__name__})"


_lock = threading.Lock()
_threads_inside = 0
_filters = warnings.catch_warnings()


@contextmanager
def _ignore_warnings() -> Iterator[None]:
    """Suppress PIL's warnings (large image, odd EXIF, palette transparency), in all threads.

    The first thread to enter sets the filter and the last one to leave restores the previous ones:
    catch_warnings in each thread would restore the wrong filters when threads leave in another
    order than they entered.
    """
    global _threads_inside, _filters
    with _lock:
        if _threads_inside == 0:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("ignore")
        _threads_inside += 1
    try:
        yield
    finally:
        with _lock:
            _threads_inside -= 1
            if _threads_inside == 0:
                _filters.__exit__(None, None, None)
