"""Predictions for image files: classes, or the values of a regression."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from layercache.deploy.classifier import Classifier, Regressor
from layercache.errors import DataError, OptionError
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.image_input import crop, find_images
from layercache.extraction.models.backbone import Backbone
from layercache.extraction.models.preprocessing.transform import Preprocessing
from layercache.extraction.pipeline.decode import open_image


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most probable classes of one image."""

    image: str
    """Path of the image file."""
    classes: tuple[str, ...]
    """Class names, most probable first."""
    probabilities: tuple[float, ...]
    """Their probabilities: softmax over all classes, or for a multi-label head a sigmoid each."""


@dataclass(frozen=True, kw_only=True)
class ValuePrediction:
    """The predicted values of one image."""

    image: str
    """Path of the image file."""
    columns: tuple[str, ...]
    """Names of the annotation columns that are predicted."""
    values: tuple[float, ...]
    """Their values, in the unit of the columns."""


@dataclass(frozen=True, kw_only=True)
class PredictionResult:
    """Result of `predict`."""

    images: tuple[Prediction | ValuePrediction, ...]
    """One prediction per image, in the order given; images of a folder sorted by name."""
    outputs: np.ndarray[Any, np.dtype[np.float32]]
    """Logits of the images in the order of the classes, or their values, (N, C)."""
    skipped: Mapping[str, str]
    """Error message of each file that could not be read; empty unless `on_error` is "skip"."""


@dataclass(frozen=True, kw_only=True)
class PoolMember:
    """A model of a pool, whose output is the sum of the models' outputs, each times a factor."""

    model: Classifier | Regressor
    factor: float


def predict(
    model: Classifier | Regressor,
    paths: Sequence[str | os.PathLike[str]],
    *,
    top_k: int = 5,
    batch_size: int = 32,
    on_error: Literal["raise", "skip"] = "raise",
    on_progress: Callable[[int], None] | None = None,
) -> PredictionResult:
    """Predict for image files and all images below folders.

    Args:
        model: From `load_classifier` or `load_regressor`.
        paths: Image files and folders.
        top_k: Number of classes per image; without effect on a regression.
        batch_size: Number of images per forward pass.
        on_error: "raise" the error of an image that cannot be decoded, or "skip" and list it.
        on_progress: Called with the number of images done so far.

    Raises:
        DataNotFoundError: For a path that does not exist or a folder without images.
        DataError: For an image that cannot be decoded.
        OptionError: For an option out of range.
    """
    return predict_pool(
        [PoolMember(model=model, factor=1.0)],
        paths,
        top_k=top_k,
        batch_size=batch_size,
        on_error=on_error,
        on_progress=on_progress,
    )


def predict_pool(
    members: Sequence[PoolMember],
    paths: Sequence[str | os.PathLike[str]],
    *,
    top_k: int = 5,
    batch_size: int = 32,
    on_error: Literal["raise", "skip"] = "raise",
    on_progress: Callable[[int], None] | None = None,
) -> PredictionResult:
    """Predict for image files with a pool of models, as `predict` with one.

    Each image is decoded once (once for each treatment of transparent pixels), and goes once
    through a backbone that several members share.
    """
    for option, value in (("top_k", top_k), ("batch_size", batch_size)):
        if value < 1:
            raise OptionError(f"{option}: expected at least 1, got {value}")
    if on_error not in ("raise", "skip"):
        raise OptionError(f"on_error: expected raise or skip, got {on_error!r}")
    files = find_images(paths)
    preprocessings = list(dict.fromkeys(p for m in members for p in m.model.preprocessings))
    skipped: dict[str, str] = {}
    predictions: list[Prediction | ValuePrediction] = []
    outputs: list[Tensor] = []

    def load(row: int) -> dict[Preprocessing, Tensor] | DataError:
        try:
            return crop(files[row], preprocessings)
        except DataError as error:
            if on_error == "raise":
                raise
            return error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(files), batch_size):
            rows = range(start, min(start + batch_size, len(files)))
            crops: dict[str, dict[Preprocessing, Tensor]] = {}
            for row, loaded in zip(rows, pool.map(load, rows), strict=True):
                if isinstance(loaded, DataError):
                    skipped[files[row]] = str(loaded)
                else:
                    crops[files[row]] = loaded
            if crops:
                pixels = {p: torch.stack([c[p] for c in crops.values()]) for p in preprocessings}
                output = _run(members, pixels)
                model = members[0].model
                predictions += describe_outputs(model, list(crops), output, top_k=top_k)
                outputs.append(output)
            if on_progress is not None:
                on_progress(rows.stop)
    return PredictionResult(
        images=tuple(predictions),
        outputs=torch.cat(outputs).numpy() if outputs else np.zeros((0, 0), np.float32),
        skipped=skipped,
    )


def _run(members: Sequence[PoolMember], pixels: Mapping[Preprocessing, Tensor]) -> Tensor:
    """Return the output of a pool for cropped images, float32 (B, C) on the CPU."""
    tokens: dict[Backbone, Tensor] = {}
    total = torch.zeros((), dtype=torch.float64)
    with torch.inference_mode():
        for member in members:
            model = member.model
            for backbone in model.backbones:
                if backbone not in tokens:
                    tokens[backbone] = backbone.forward_tokens(
                        backbone.normalize(pixels[backbone.preprocessing])
                    )
            output = model.forward_head([tokens[backbone] for backbone in model.backbones])
            total = total + member.factor * output.cpu().double()
    return total.float()


def read_images(paths: Sequence[str | os.PathLike[str]]) -> list[Image.Image]:
    """Read image files as RGB images.

    Raises:
        DataError: For a file that cannot be decoded, by name.
    """
    files = [os.fspath(path) for path in paths]
    samples = FileSamples("", files, np.zeros(len(files), np.int64))
    return [open_image(samples, row) for row in range(len(files))]


def describe_outputs(
    model: Classifier | Regressor, files: Sequence[str], output: Tensor, *, top_k: int
) -> Sequence[Prediction | ValuePrediction]:
    """Return the predictions of outputs (N, C).

    Args:
        model: What the outputs are of.
        files: Path of each image.
        output: Logits, or values of a regression.
        top_k: Number of classes per image.
    """
    if isinstance(model, Regressor):
        return [
            ValuePrediction(image=file, columns=model.columns, values=tuple(row))
            for file, row in zip(files, output.tolist(), strict=True)
        ]
    probabilities = model.probabilities(output).cpu()
    values, order = probabilities.topk(min(top_k, probabilities.shape[1]))
    return [
        Prediction(image=file, classes=tuple(model.classes[c] for c in row), probabilities=tuple(p))
        for file, row, p in zip(files, order.tolist(), values.tolist(), strict=True)
    ]
