"""A trained head on its backbone, as one module from images to the head's output.

Shapes: B images of H x W pixels, L layers, T stored tokens of a layer, S input tokens of the head,
S_e of encoder e, D width, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from layercache import heads
from layercache._units import join_words
from layercache.deploy.backbones import check_compatible
from layercache.errors import HeadMismatchError
from layercache.extraction.image_input import Images, check_pixels, crop, iter_pixels
from layercache.extraction.models.backbone import Backbone
from layercache.extraction.models.preprocessing.transform import Preprocessing
from layercache.probing.results.head_checkpoint import Checkpoint

logger = logging.getLogger(__name__)

Inputs = Tensor | Sequence[Tensor]
"""Normalized images (B, 3, H, W), or those of each encoder if a head has several."""


class EncoderTokens(nn.Module):
    """The tokens that a head reads from one backbone."""

    def __init__(self, backbone: Backbone, pairs: Sequence[tuple[int, str]]) -> None:
        """Look up the tokens among those of the backbone.

        Args:
            backbone: A frozen backbone.
            pairs: (layer, token) of the S_e tokens, in the order of the head's input.
        """
        super().__init__()
        self.backbone = backbone
        self.vit: nn.Module = backbone.module
        self.projection = backbone.projection
        stored = ((layer, token) for layer in backbone.layers for token in backbone.tokens)
        positions = {pair: i for i, pair in enumerate(stored)}
        self.token_index: Tensor
        """Position of each of the head's tokens among the stored ones, int64 (S_e,)."""
        self.register_buffer(
            "token_index", torch.tensor([positions[pair] for pair in pairs]), persistent=False
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images, float (B, 3, H, W), to all stored tokens, (L, T, B, D)."""
        return self.backbone.forward_tokens(images.to(self.backbone.compute_dtype))

    def select(self, tokens_ltbd: Tensor) -> Tensor:
        """Return the tokens that the head reads, (B, S_e, D)."""
        return tokens_ltbd.flatten(0, 1).index_select(0, self.token_index).transpose(0, 1)


class ImageModel(nn.Module):
    """A frozen backbone and head: `model(model.preprocess(images))` returns the head's output.

    A head that joins several encoders runs the backbone of each. Tokens stay in float32 between tap
    and head, so the output differs from that of the cache only by the cache's float16 rounding. The
    module is not meant to be trained further.
    """

    def __init__(self, checkpoint: Checkpoint, *backbones: Backbone) -> None:
        """Join a head and its backbones; logs a warning if its tokens were others.

        They were if the precisions differ, or if a codec stored them.

        Args:
            checkpoint: The trained head.
            *backbones: The backbone of each of its encoders, usually one.

        Raises:
            HeadMismatchError: If a backbone is not the head's own; see `check_compatible`.
        """
        super().__init__()
        encoders = checkpoint.provenance.tokens_by_encoder
        if len(backbones) != len(encoders):
            raise HeadMismatchError(
                f"expected the backbones of {join_words([record.model for record, _ in encoders])},"
                f" in this order, got {len(backbones)}"
            )
        for (record, pairs), backbone in zip(encoders, backbones, strict=True):
            check_compatible(record, pairs, backbone)
            if backbone.precision != record.precision:
                logger.warning(
                    "the tokens that this head was trained on were computed in %s, this %s "
                    "computes in %s: predictions may differ a little",
                    record.precision,
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
        self.encoders = nn.ModuleList(
            EncoderTokens(backbone, pairs)
            for (_, pairs), backbone in zip(encoders, backbones, strict=True)
        )
        self.preprocessings = tuple(backbone.preprocessing for backbone in backbones)
        """How images are prepared for each encoder."""
        self.head = heads.load(checkpoint).requires_grad_(False)
        self.to(backbones[0].device)
        self.eval()

    @property
    def backbone(self) -> Backbone:
        """The backbone, of several the first."""
        return self.backbones[0]

    @property
    def backbones(self) -> list[Backbone]:
        """The backbone of each encoder."""
        return [encoder.backbone for encoder in self._encoders]

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared for the backbone, of several the first."""
        return self.preprocessings[0]

    def forward(self, images: Inputs) -> Tensor:
        """Map preprocessed images to the output, float32 (B, C).

        The output is logits, or the predicted values of a regression.

        Args:
            images: Normalized images, float (B, 3, H, W); a sequence of one for each encoder if the
                head has several.
        """
        inputs = [images] if isinstance(images, Tensor) else images
        tokens = [encoder(x) for encoder, x in zip(self.encoders, inputs, strict=True)]
        return self.forward_head(tokens)

    def forward_head(self, tokens: Sequence[Tensor]) -> Tensor:
        """Map the stored tokens of each encoder, (L, T, B, D), to the output, float32 (B, C)."""
        parts_bsd = [
            encoder.select(tokens_ltbd)
            for encoder, tokens_ltbd in zip(self._encoders, tokens, strict=True)
        ]
        # narrower tokens are padded with zeros, as in training
        width = max(x_bsd.shape[-1] for x_bsd in parts_bsd)
        padded = [
            F.pad(x_bsd, (0, width - x_bsd.shape[-1])) if x_bsd.shape[-1] < width else x_bsd
            for x_bsd in parts_bsd
        ]
        output: Tensor = self.head(padded[0] if len(padded) == 1 else torch.cat(padded, 1))
        return output

    def preprocess(self, images: Image.Image | Sequence[Image.Image] | Tensor) -> Any:
        """Return the input of `forward`, on the module's device: a Tensor.

        If the head has several encoders, a tuple of one Tensor for each.

        Args:
            images: PIL images of any size and mode, or uint8 (B, 3, H, W) in the input size of all
                encoders.

        Raises:
            DataError: For an image mode without a defined white level (32-bit integers, floats).
            OptionError: For a tensor of another shape or dtype.
        """
        if isinstance(images, Tensor):
            return self.normalize({p: check_pixels(images, preprocessing=p) for p in self._crops})
        if isinstance(images, Image.Image):
            images = [images]
        crops = [crop(image, self._crops) for image in images]
        return self.normalize({p: torch.stack([c[p] for c in crops]) for p in self._crops})

    def pixels(self, image: Image.Image) -> Tensor:
        """Return one image as uint8 (3, H, W), resized and cropped for the (first) backbone.

        Raises:
            DataError: For an image mode without a defined white level.
        """
        return crop(image, [self.preprocessing])[self.preprocessing]

    def normalize(self, pixels: Mapping[Preprocessing, Tensor]) -> Any:
        """Return the input of `forward` from cropped images, uint8 (B, 3, H, W)."""
        device = self._encoders[0].token_index.device
        inputs = tuple(p.normalize(pixels[p].to(device)) for p in self.preprocessings)
        return inputs[0] if len(inputs) == 1 else inputs

    @property
    def _encoders(self) -> list[EncoderTokens]:
        return list(self.encoders)  # type: ignore[arg-type]  # a ModuleList is of any Module

    @property
    def _crops(self) -> list[Preprocessing]:
        return list(dict.fromkeys(self.preprocessings))

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
        batches = iter_pixels(images, preprocessings=self._crops, batch_size=batch_size)
        with torch.inference_mode():
            outputs = [self(self.normalize(pixels)).float().cpu() for pixels in batches]
        if not outputs:
            return np.zeros((0, len(self.checkpoint.classes)), np.float32)
        return torch.cat(outputs).numpy()
