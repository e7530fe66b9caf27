"""A trained head on its backbone, as one module from images to the head's output.

Shapes: B images of H x W pixels, L layers, T stored tokens of a layer, S input tokens of the head,
D width, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from layercache import heads
from layercache._units import join_words
from layercache.errors import BackboneError, HeadMismatchError, OptionError
from layercache.extraction.image_input import Images, check_pixels, iter_pixels, pixels_of
from layercache.extraction.models.backbone import COMPUTE_DTYPES, Backbone
from layercache.extraction.models.encoder import ARCHITECTURE_PREFIX, Encoder
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.preprocessing.transform import Preprocessing
from layercache.probing.results.checkpoint import Checkpoint, Provenance

logger = logging.getLogger(__name__)


class ImageModel(nn.Module):
    """A frozen backbone and head: `model(model.preprocess(images))` returns the head's output.

    Tokens stay in float32 between tap and head, so the output differs from that of the cache only
    by the cache's float16 rounding. The module is not meant to be trained further.
    """

    def __init__(self, checkpoint: Checkpoint, backbone: Backbone) -> None:
        """Join a head and its backbone; logs a warning if its tokens were others.

        They were if the precisions differ, or if a codec stored them.

        Raises:
            HeadMismatchError: If the backbone is not the head's own; see `check_compatible`.
        """
        super().__init__()
        check_compatible(checkpoint, backbone)
        if backbone.precision != checkpoint.provenance.precision:
            logger.warning(
                "the tokens that this head was trained on were computed in %s, this %s computes in "
                "%s: predictions may differ a little",
                checkpoint.provenance.precision,
                backbone.name,
                backbone.precision,
            )
        if codecs := checkpoint.provenance.codecs:
            logger.warning(
                "this head was trained on tokens that were stored as %s, and now gets them as they "
                "are: predictions may differ from those on the cache",
                join_words(list(dict.fromkeys(codecs))),
            )
        self.checkpoint = checkpoint
        self.preprocessing = backbone.preprocessing
        self.backbone = backbone
        self.vit: nn.Module = backbone.module
        self.projection = backbone.projection
        self.head = heads.load(checkpoint).requires_grad_(False)
        stored = ((layer, token) for layer in backbone.layers for token in backbone.tokens)
        positions = {pair: i for i, pair in enumerate(stored)}
        self.token_index: Tensor
        """Position of each of the head's tokens among the stored ones, int64 (S,)."""
        self.register_buffer(
            "token_index",
            torch.tensor([positions[pair] for pair in checkpoint.pairs]),
            persistent=False,
        )
        self.to(backbone.device)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Map preprocessed, normalised images, float (B, 3, H, W), to the output, float32 (B, C).

        The output is logits, or the predicted values of a regression.
        """
        tokens_ltbd = self.backbone.forward_tokens(images.to(self.backbone.compute_dtype))
        x_bsd = tokens_ltbd.flatten(0, 1).index_select(0, self.token_index).transpose(0, 1)
        output: Tensor = self.head(x_bsd)
        return output

    def preprocess(self, images: Image.Image | Sequence[Image.Image] | Tensor) -> Tensor:
        """Return the input of `forward`, on the module's device.

        Args:
            images: PIL images of any size and mode, or uint8 (B, 3, H, W) in the backbone's input
                size.

        Raises:
            DataError: For an image mode without a defined white level (32-bit integers, floats).
            OptionError: For a tensor of another shape or dtype.
        """
        if isinstance(images, Image.Image):
            images = [images]
        if not isinstance(images, Tensor):
            images = torch.stack([self.pixels(image) for image in images])
        check_pixels(images, preprocessing=self.preprocessing)
        return self.preprocessing.normalize(images.to(self.token_index.device))

    def pixels(self, image: Image.Image) -> Tensor:
        """Return one image as uint8 (3, H, W), resized and cropped by the backbone's own transform.

        Raises:
            DataError: For an image mode without a defined white level.
        """
        return pixels_of(image, preprocessing=self.preprocessing)

    def outputs(self, images: Images, *, batch_size: int = 32) -> np.ndarray[Any, Any]:
        """Return the output for images of any number, float32 (N, C) on the CPU.

        Args:
            images: A PIL image, an image file, a folder (all images below it, sorted by name),
                uint8 (3, H, W) or (B, 3, H, W) in the backbone's input size, or a list of these.
            batch_size: Images per forward pass.

        Raises:
            DataNotFoundError: A path does not exist, or a folder has no images.
            DataError: An image cannot be decoded.
            OptionError: Something is no image, or a tensor has another size or dtype.
        """
        batches = iter_pixels(images, preprocessing=self.preprocessing, batch_size=batch_size)
        with torch.inference_mode():
            outputs = [self(self.preprocess(pixels)).float().cpu() for pixels in batches]
        if not outputs:
            return np.zeros((0, len(self.checkpoint.classes)), np.float32)
        return torch.cat(outputs).numpy()


def check_compatible(head: Checkpoint, backbone: Backbone) -> None:
    """Check that `backbone` is the one that `head` was trained on.

    Raises:
        HeadMismatchError: If the weights (by digest), the preprocessing, the tap or the tokens
        differ.
    """
    provenance = head.provenance
    if backbone.weights_digest != provenance.weights:
        raise HeadMismatchError(
            f"this head was trained on {provenance.model} with weights {provenance.weights[:12]}…, "
            f"this {backbone.name} has {backbone.weights_digest[:12]}…: pass the checkpoint that "
            "it was trained on as `weights`, or train a head on this backbone"
        )
    for name, expected, given in (
        ("tap", provenance.tap, backbone.tap),
        ("projected", provenance.projected, backbone.projected),
        ("preprocessing", dict(provenance.preprocessing), backbone.preprocessing.to_json()),
    ):
        if expected != given:
            raise HeadMismatchError(
                f"this head was trained with {name} {expected}, this {backbone.name} has {given}: "
                "load the backbone as it was at extraction"
            )
    missing = [
        f"{layer}:{token}"
        for layer, token in head.pairs
        if layer not in backbone.layers or token not in backbone.tokens
    ]
    if missing:
        raise HeadMismatchError(
            f"this head reads tokens that this {backbone.name} was loaded without: "
            f"{', '.join(missing[:6])}"
        )


def load_matching_backbone(
    head: Checkpoint,
    *,
    model: str | Encoder | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    offline: bool = False,
) -> Backbone:
    """Load the backbone that `head` was trained on, with the layers and tokens that the head reads.

    It preprocesses as recorded with the head, and its tokens stay in float32. The result may be
    another backbone; `check_compatible` tells.

    Raises:
        OptionError: For an unknown `precision` or an incomplete record of the preprocessing, and
            whatever `load_encoder` raises.
    """
    if precision not in COMPUTE_DTYPES:
        raise OptionError(
            f"precision: expected one of {', '.join(COMPUTE_DTYPES)}, got {precision!r}"
        )
    provenance = head.provenance
    if provenance.imported:
        raise BackboneError(
            f"{provenance.model}: this head was trained on imported tokens, whose encoder "
            "layercache does not have: use the head on tokens, with layercache.load_head or "
            "layercache.heads.load"
        )
    if provenance.encoders is not None:
        models = join_words([name for name, _ in provenance.encoders])
        raise BackboneError(
            f"this head reads the tokens of several encoders ({models}), which no prediction of "
            "images runs together: predict on a split of their caches with `layercache predictions "
            "PROBE --split SPLIT --out FILE`, or use the head on tokens, with layercache.load_head "
            "or layercache.heads.load"
        )
    preprocessing = Preprocessing.from_json(provenance.preprocessing)
    if model is None and not has_address(provenance):
        raise BackboneError(
            f"{provenance.model}: the tokens are those of an Encoder object from Python, which no "
            "file holds: pass it as `model`, load_classifier(head, model=encoder), or the "
            "FILE.py:FUNCTION of a function that returns it"
        )
    return load_encoder(
        model or provenance.model,
        weights=weights,
        tap=provenance.tap,  # type: ignore[arg-type]  # a cache's spec held it
        layers=sorted({layer for layer, _ in head.pairs}),
        tokens=token_kinds([token for _, token in head.pairs]),
        projected=provenance.projected,
        precision=precision,  # type: ignore[arg-type]
        storage_dtype="float32",
        device=device,
        preprocessing=preprocessing,
        background=preprocessing.background,
        offline=offline,
    )


def has_address(provenance: Provenance) -> bool:
    """Return whether the backbone can be loaded by its name; an Encoder object cannot."""
    return ":" in provenance.model or not provenance.architecture.startswith(ARCHITECTURE_PREFIX)


def token_kinds(names: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds to load for stored names: "grid:2" for "grid:2/0", "all" for "patch/3"."""
    kinds = list(
        dict.fromkeys("all" if name.startswith("patch/") else name.split("/")[0] for name in names)
    )
    return tuple(kind for kind in kinds if not (kind == "cls" and "all" in kinds))
