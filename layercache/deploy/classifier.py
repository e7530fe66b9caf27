"""Image models by what their heads predict, and how they are loaded.

Shapes: B images, C classes, or columns of a regression.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layercache._devices import resolve_device
from layercache.deploy.backbones import Weights, load_backbones
from layercache.deploy.image_model import ImageModel
from layercache.errors import HeadMismatchError
from layercache.extraction.image_input import Images
from layercache.extraction.models.backbone import Backbone
from layercache.extraction.models.encoder import Encoder
from layercache.probing.heads.spec import REGRESSION
from layercache.probing.results.head_checkpoint import Checkpoint, HeadPath, load_head
from layercache.probing.results.lookup import find_probe

Array = np.ndarray[Any, Any]


class Classifier(ImageModel):
    """A classifier: `classifier(classifier.preprocess(images))` returns logits (B, C)."""

    def __init__(self, checkpoint: Checkpoint, *backbones: Backbone) -> None:
        """Join a head and its backbones, as `ImageModel`.

        Raises:
            HeadMismatchError: If the head is one of a regression, or a backbone is not its own.
        """
        if checkpoint.spec.task == REGRESSION:
            raise HeadMismatchError(
                f"this head predicts {', '.join(checkpoint.classes)}, which are no classes: load "
                "it with load_regressor"
            )
        super().__init__(checkpoint, *backbones)
        self.classes = checkpoint.classes
        """Class names in the order of the logits."""
        self.multi_label = checkpoint.spec.multi_label
        """True if an image may have several classes, so that each logit has its own sigmoid."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the softmax of logits (B, C), or for a multi-label head the sigmoid of each."""
        return logits.sigmoid() if self.multi_label else logits.softmax(-1)

    def predict(self, images: Images, *, batch_size: int = 32) -> Array:
        """Return the class name of each image, str (N,).

        For a multi-label head, whether an image has each class: bool (N, C), true where the
        probability exceeds one half.

        Args:
            images: A PIL image, an image file, a folder (all images below it, sorted by name),
                uint8 (3, H, W) or (B, 3, H, W) in the backbone's input size, or a list of these.
            batch_size: Images per forward pass.

        Raises:
            DataNotFoundError: A path does not exist, or a folder has no images.
            DataError: An image cannot be decoded.
            OptionError: Something is no image, or a tensor has another size or dtype.
        """
        logits = self.logits(images, batch_size=batch_size)
        return logits > 0 if self.multi_label else np.array(self.classes)[logits.argmax(1)]

    def predict_proba(self, images: Images, *, batch_size: int = 32) -> Array:
        """Return the probability of each class in the order of `classes`, float32 (N, C).

        A softmax over the classes, or for a multi-label head a sigmoid of each. Arguments and
        errors as in `predict`.
        """
        logits = torch.from_numpy(self.logits(images, batch_size=batch_size))
        return self.probabilities(logits).numpy()

    def logits(self, images: Images, *, batch_size: int = 32) -> Array:
        """Return the logits in the order of `classes`, float32 (N, C), also for two classes.

        Arguments and errors as in `predict`.
        """
        return self.outputs(images, batch_size=batch_size)


class Regressor(ImageModel):
    """A regression: `regressor(regressor.preprocess(images))` returns values (B, C).

    They are in the unit of the annotation columns that the head was trained on.
    """

    def __init__(self, checkpoint: Checkpoint, *backbones: Backbone) -> None:
        """Join a head and its backbones, as `ImageModel`.

        Raises:
            HeadMismatchError: If the head is a classifier's, or a backbone is not its own.
        """
        if checkpoint.spec.task != REGRESSION:
            raise HeadMismatchError(
                f"this head has {len(checkpoint.classes)} classes and predicts no numbers: "
                "load it with load_classifier"
            )
        super().__init__(checkpoint, *backbones)
        self.columns = checkpoint.classes
        """Names of the predicted columns in the order of the output."""

    def predict(self, images: Images, *, batch_size: int = 32) -> Array:
        """Return the values of each image, float32 (N, C), or (N,) for a single column.

        Arguments and errors as in `Classifier.predict`.
        """
        values = self.outputs(images, batch_size=batch_size)
        return values[:, 0] if len(self.columns) == 1 else values


def load_model(
    head: Checkpoint | str | HeadPath,
    *,
    model: str | Encoder | None = None,
    weights: Weights | None = None,
    device: str = "auto",
    precision: str | None = None,
    offline: bool = False,
) -> Classifier | Regressor:
    """Load a trained head on its backbone, whatever it predicts. See `load_classifier`."""
    (loaded,) = load_models(
        [head], model=model, weights=weights, device=device, precision=precision, offline=offline
    )
    return loaded


def load_models(
    given: Sequence[Checkpoint | str | HeadPath],
    *,
    model: str | Encoder | None = None,
    weights: Weights | None = None,
    device: str = "auto",
    precision: str | None = None,
    offline: bool = False,
) -> list[Classifier | Regressor]:
    """Load trained heads; those of one backbone share it. See `load_classifier`."""
    checkpoints = [h if isinstance(h, Checkpoint) else load_head(find_probe(h)) for h in given]
    backbones = load_backbones(
        checkpoints,
        model=model,
        weights=weights,
        device=resolve_device(device)[0].type,
        precision=precision,
        offline=offline,
    )
    return [
        (Regressor if head.spec.task == REGRESSION else Classifier)(head, *of_head)
        for head, of_head in zip(checkpoints, backbones, strict=True)
    ]


def load_classifier(
    head: Checkpoint | str | HeadPath,
    *,
    model: str | Encoder | None = None,
    weights: Weights | None = None,
    device: str = "auto",
    precision: str | None = None,
    offline: bool = False,
) -> Classifier:
    """Load a trained head on its backbone: a module from images (B, 3, H, W) to logits (B, C).

        classifier = layercache.load_classifier("CACHE/probes/ID")
        classifier.predict("photos/")           # names of the classes, (N,)
        classifier.predict_proba([image, "cat.jpg"])   # (2, C)

    Args:
        head: The probe's id or the beginning of it (of probes in the default root, see
            `find_probe`), its folder (CACHE/probes/ID), its head.safetensors, or a loaded head.
        model: The backbone, if it is not to be found under the name that it had at extraction: an
            `Encoder` that was given as an object, or the address of a folder or file that was
            moved.
        weights: Checkpoint that the tokens were extracted with; by default the weights that ship
            with the package or that timm downloads. If the head joins several models: a mapping
            from the names of models to files.
        device: "cpu", "cuda", "mps", or "auto" for a GPU if there is one.
        precision: Arithmetic of the backbone: "fp32", "bf16" or "fp16"; by default that of the
            cache that the head was trained on.
        offline: Download no weights, as with $LAYERCACHE_OFFLINE.

    Raises:
        BackboneError: If the backbone was an `Encoder` object and `model` is not given, or cannot
            be loaded.
        HeadMismatchError: If the backbone's weights are not those that the head was trained on, or
            the head is one of a regression.
        ProbeNotFoundError: If there is no saved head.
    """
    loaded = load_model(
        head, model=model, weights=weights, device=device, precision=precision, offline=offline
    )
    if isinstance(loaded, Classifier):
        return loaded
    return Classifier(
        loaded.checkpoint, *loaded.backbones
    )  # raises the error that names the remedy


def load_regressor(
    head: Checkpoint | str | HeadPath,
    *,
    model: str | Encoder | None = None,
    weights: Weights | None = None,
    device: str = "auto",
    precision: str | None = None,
    offline: bool = False,
) -> Regressor:
    """Load the head of a regression on its backbone: from images (B, 3, H, W) to values (B, C).

        regressor = layercache.load_regressor("CACHE/probes/ID")
        values = regressor.predict(["leaf.jpg", image])

    Arguments and errors as in `load_classifier`.
    """
    loaded = load_model(
        head, model=model, weights=weights, device=device, precision=precision, offline=offline
    )
    if isinstance(loaded, Regressor):
        return loaded
    return Regressor(loaded.checkpoint, *loaded.backbones)  # raises the error that names the remedy
