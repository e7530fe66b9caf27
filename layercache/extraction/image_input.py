"""Images as a user has them, in memory or in files, to the pixels of a backbone's input.

Shapes: B images of H x W pixels, the size of the backbone's input.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from layercache.errors import DataError, DataNotFoundError, OptionError
from layercache.extraction.datasets.image_files import FileSamples, is_image
from layercache.extraction.models.preprocessing.transform import Background, Preprocessing
from layercache.extraction.pipeline.decode import open_image, to_rgb

ImageInput = Image.Image | str | os.PathLike[str] | Tensor
"""A PIL image, an image file, a folder of images, or pixels: uint8 (3, H, W) or (B, 3, H, W)."""
Images = ImageInput | Sequence[ImageInput]


def list_images(images: Images) -> list[Image.Image | str | Tensor]:
    """Return images one by one: PIL images, paths of files, and uint8 tensors (3, H, W).

    A folder stands for all images below it, sorted by name.

    Raises:
        DataNotFoundError: A path does not exist, or a folder has no images.
        OptionError: Something is no image.
    """
    if isinstance(images, Image.Image | str | os.PathLike | Tensor):
        images = [images]
    listed: list[Image.Image | str | Tensor] = []
    for image in images:
        if isinstance(image, Tensor):
            listed += image if image.ndim == 4 else [image]
        elif isinstance(image, Image.Image):
            listed.append(image)
        elif isinstance(image, str | os.PathLike):
            listed += find_images([image])
        else:
            raise OptionError(
                "images: expected PIL images, paths or uint8 tensors (3, H, W), got "
                f"{type(image).__name__}: an array of NumPy becomes an image with "
                "PIL.Image.fromarray"
            )
    return listed


def iter_pixels(
    images: Images, *, preprocessings: Sequence[Preprocessing], batch_size: int
) -> Iterator[dict[Preprocessing, Tensor]]:
    """Yield the pixels of images, uint8 (B, 3, H, W) on the CPU, B at most `batch_size`.

    Files are decoded in threads. Tensors are taken as they are.

    Args:
        images: See `list_images`.
        preprocessings: Those of one or several backbones, each once.
        batch_size: Largest number of images in memory.

    Raises:
        DataNotFoundError: A path does not exist, or a folder has no images.
        DataError: An image cannot be decoded.
        OptionError: Something is no image, or a tensor has another size or dtype.
    """
    if batch_size < 1:
        raise OptionError(f"batch_size: expected at least 1, got {batch_size}")
    listed = list_images(images)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(listed), batch_size):
            batch = listed[start : start + batch_size]
            crops = list(pool.map(lambda image: crop(image, preprocessings), batch))
            yield {p: torch.stack([c[p] for c in crops]) for p in preprocessings}


def crop(
    image: Image.Image | str | Tensor, preprocessings: Sequence[Preprocessing]
) -> dict[Preprocessing, Tensor]:
    """Return one image as uint8 (3, H, W), resized and cropped by each backbone's own transform.

    A file is decoded once for all backbones that treat transparent pixels alike.

    Raises:
        DataError: A file cannot be decoded, or an image mode has no defined white level (32-bit
            integers, floats).
        OptionError: A tensor has another size or dtype.
    """
    if isinstance(image, Tensor):
        return {p: check_pixels(image[None], preprocessing=p)[0].cpu() for p in preprocessings}
    decoded = {b: _decode(image, b) for b in {p.background for p in preprocessings}}
    return {
        p: torch.from_numpy(p.resize_and_crop(decoded[p.background]).copy()) for p in preprocessings
    }


def _decode(image: Image.Image | str, background: Background) -> Image.Image:
    if isinstance(image, str):
        return open_image(FileSamples("", [image], np.zeros(1, np.int64)), 0, background=background)
    try:
        return to_rgb(image, background=background)
    except ValueError as error:
        raise DataError(f"this image cannot be used: {error}") from error


def check_pixels(images: Tensor, *, preprocessing: Preprocessing) -> Tensor:
    """Return pixels that a backbone takes: uint8 (B, 3, H, W).

    Raises:
        OptionError: The dtype or shape is another one.
    """
    height, width = preprocessing.input_size
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, height, width):
        raise OptionError(
            f"expected PIL images or uint8 (B, 3, {height}, {width}), "
            f"got {images.dtype} {tuple(images.shape)}"
        )
    return images


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """List the given files, and for each folder all images below it, sorted by name.

    Hidden files in folders and duplicates are left out.

    Raises:
        DataNotFoundError: For a path that does not exist, a folder without images, or no path at
        all.
    """
    files: dict[str, None] = {}
    for path in paths:
        if os.path.isdir(path):
            images = sorted(_images_below(os.fspath(path)))
            if not images:
                raise DataNotFoundError(
                    f"{path}: no image in this folder or below it (by file extension: .jpg, .png, "
                    ".webp ...)"
                )
            files |= dict.fromkeys(images)
        elif os.path.exists(path):
            files[os.fspath(path)] = None
        else:
            raise DataNotFoundError(f"{path}: no such file or folder")
    if not files:
        raise DataNotFoundError("no image given: pass files or folders")
    return list(files)


def _images_below(folder: str) -> Iterator[str]:
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in names if is_image(name))
