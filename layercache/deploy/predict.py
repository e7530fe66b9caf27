"""Image files through a classifier."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from layercache.deploy.classifier import Classifier
from layercache.errors import DataError, DataNotFoundError, OptionError
from layercache.extraction.datasets.image_files import FileSamples, is_image
from layercache.extraction.pipeline.decode import open_image


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One image's most probable classes."""

    image: str
    """The file."""
    classes: tuple[str, ...]
    """Names, the most probable first."""
    probabilities: tuple[float, ...]
    """In the same order: of a softmax over all classes, or for a multi-label head of a sigmoid each."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What `predict` found."""

    images: tuple[Prediction, ...]
    """In the order given; a folder's images by name."""
    skipped: Mapping[str, str]
    """File -> why it could not be read; empty unless `on_error` is "skip"."""


def predict(
    classifier: Classifier,
    paths: Sequence[str | os.PathLike[str]],
    *,
    top_k: int = 5,
    batch_size: int = 32,
    on_error: Literal["stop", "skip"] = "stop",
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Classify image files, and every image below a folder. `progress` gets the number of images done.

    Raises DataNotFoundError for a path that is not there or a folder without images, DataError for an image that cannot be decoded (which
    `on_error="skip"` lists instead), OptionError.
    """
    for option, value in (("top_k", top_k), ("batch_size", batch_size)):
        if value < 1:
            raise OptionError(f"{option}: expected at least 1, got {value}")
    if on_error not in ("stop", "skip"):
        raise OptionError(f"on_error: expected stop or skip, got {on_error!r}")
    files = find_images(paths)
    samples = _samples(files)
    skipped: dict[str, str] = {}
    found: list[Prediction] = []

    def load(row: int) -> Tensor | DataError:
        try:
            return classifier.pixels(open_image(samples, row))
        except DataError as error:
            if on_error == "stop":
                raise
            return error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(files), batch_size):
            rows = range(start, min(start + batch_size, len(files)))
            loaded = list(pool.map(load, rows))
            skipped |= {
                files[row]: str(image)
                for row, image in zip(rows, loaded, strict=True)
                if isinstance(image, DataError)
            }
            pixels = {
                row: image
                for row, image in zip(rows, loaded, strict=True)
                if isinstance(image, Tensor)
            }
            if pixels:
                found += _classify(
                    classifier,
                    [files[row] for row in pixels],
                    torch.stack(list(pixels.values())),
                    top_k=top_k,
                )
            if progress is not None:
                progress(rows.stop)
    return Predictions(images=tuple(found), skipped=skipped)


def read_images(paths: Sequence[str | os.PathLike[str]]) -> list[Image.Image]:
    """Image files as RGB images. Raises DataError, naming the file, for one that cannot be decoded."""
    samples = _samples([os.fspath(path) for path in paths])
    return [open_image(samples, row) for row in range(len(paths))]


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Files as they are; of a folder every image below it, by name, hidden ones left out. Each file once. Raises DataNotFoundError."""
    found: dict[str, None] = {}
    for path in paths:
        if os.path.isdir(path):
            below = list(_images_below(os.fspath(path)))
            if not below:
                raise DataNotFoundError(
                    f"{path}: no image in this folder or below it (by the files' names: .jpg, .png, .webp ...)"
                )
            found |= dict.fromkeys(sorted(below))
        elif os.path.exists(path):
            found[os.fspath(path)] = None
        else:
            raise DataNotFoundError(f"{path}: there is no such file or folder")
    if not found:
        raise DataNotFoundError("no image given: name files or folders")
    return list(found)


def _samples(files: list[str]) -> FileSamples:
    return FileSamples("", files, np.zeros(len(files), np.int64))


def _images_below(folder: str) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(place, name) for name in names if is_image(name))


def _classify(
    classifier: Classifier, files: Sequence[str], pixels: Tensor, *, top_k: int
) -> list[Prediction]:
    with torch.inference_mode():
        probabilities = classifier.probabilities(classifier(classifier.preprocess(pixels))).cpu()
    values, order = probabilities.topk(min(top_k, probabilities.shape[1]))
    return [
        Prediction(
            image=file, classes=tuple(classifier.classes[c] for c in row), probabilities=tuple(p)
        )
        for file, row, p in zip(files, order.tolist(), values.tolist(), strict=True)
    ]
