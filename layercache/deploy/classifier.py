"""A trained head on its backbone, as one module from images to logits.

Shapes: B images of H x W pixels, L layers, T stored tokens of a layer, S tokens that the head sees, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from layercache.deploy.heads import inference_head
from layercache.errors import DataError, HeadMismatchError, OptionError
from layercache.extraction.models.backbone import COMPUTE, Backbone, load_backbone
from layercache.extraction.pipeline.decode import rgb
from layercache.probing.results.checkpoint import FittedHead


class Classifier(nn.Module):
    """Frozen backbone and head. `classifier(classifier.preprocess(images))` gives logits; see `probabilities` for what they mean.

    Tokens keep float32 on their way from tap to head, so that logits differ from those of the cache by the cache's float16 rounding alone.
    Nothing here is meant to be trained further.
    """

    def __init__(self, head: FittedHead, backbone: Backbone) -> None:
        """Raises HeadMismatchError unless the backbone has the head's weights, preprocessing, tap, layers and tokens."""
        super().__init__()
        refuse_mismatch(head, backbone)
        self.head = head
        self.classes = head.classes
        """Class names in the order of the logits."""
        self.multi_label = head.spec.multi_label
        """An image may have several classes: logits go through a sigmoid each, else through one softmax."""
        self.preprocessing = backbone.preprocessing
        self.backbone = backbone
        self.vit: nn.Module = backbone.module
        self.projection = backbone.projection
        self.fusion = inference_head(head.spec, head.parameters)
        stored = {
            (layer, token): i
            for i, (layer, token) in enumerate(
                (a, b) for a in backbone.layers for b in backbone.tokens
            )
        }
        self.chosen: Tensor
        self.register_buffer(
            "chosen", torch.tensor([stored[pair] for pair in head.pairs]), persistent=False
        )
        self.to(backbone.device)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Preprocessed, normalised images, float (B, 3, H, W) -> logits float32 (B, C)."""
        tokens_ltbd = self.backbone.run(images.to(COMPUTE[self.backbone.precision]))
        x_bsd = tokens_ltbd.flatten(0, 1).index_select(0, self.chosen).transpose(0, 1)
        x_bsd = F.normalize(x_bsd.float(), dim=-1)
        logits: Tensor = self.fusion(x_bsd)
        return logits

    def preprocess(self, images: Image.Image | Sequence[Image.Image] | Tensor) -> Tensor:
        """PIL images of any size and mode, or uint8 (B, 3, H, W) of the input's size -> what `forward` takes, on the module's device.

        Raises DataError for an image without a fixed white (32-bit integers, floats), OptionError for a tensor of another shape.
        """
        if isinstance(images, Image.Image):
            images = [images]
        if not isinstance(images, Tensor):
            images = torch.stack([self.pixels(image) for image in images])
        if (
            images.dtype != torch.uint8
            or images.ndim != 4
            or tuple(images.shape[1:]) != (3, *self.preprocessing.input_size)
        ):
            height, width = self.preprocessing.input_size
            raise OptionError(
                f"expected PIL images or uint8 (B, 3, {height}, {width}), got {images.dtype} {tuple(images.shape)}"
            )
        return self.preprocessing.normalise(images.to(self.chosen.device))

    def pixels(self, image: Image.Image) -> Tensor:
        """One PIL image -> uint8 (3, H, W), resized and cropped as the backbone's own transform does. Raises DataError."""
        try:
            return self.preprocessing(rgb(image))
        except ValueError as error:
            raise DataError(f"this image cannot be used: {error}") from error

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (B, C) -> softmax over the classes, or for a multi-label head a sigmoid of each."""
        return logits.sigmoid() if self.multi_label else logits.softmax(-1)


def refuse_mismatch(head: FittedHead, backbone: Backbone) -> None:
    """Raises HeadMismatchError unless `backbone` is the one that `head` was trained on: same weights, by digest, fed and read the same way."""
    origin = head.origin
    if backbone.digest != origin.weights:
        raise HeadMismatchError(
            f"this head was trained on {origin.model} with weights {origin.weights[:12]}…, this {backbone.name} has {backbone.digest[:12]}…: "
            "give the checkpoint it was trained on (--weights FILE), or train a head on this backbone"
        )
    for what, own, given in (
        ("tap", origin.tap, backbone.tap),
        ("projected", origin.projected, backbone.projected),
        ("preprocessing", dict(origin.preprocessing), backbone.preprocessing.to_json()),
    ):
        if own != given:
            raise HeadMismatchError(
                f"this head was trained with {what} {own}, this {backbone.name} has {given}: load it as it was at extraction"
            )
    missing = [
        f"{layer}:{token}"
        for layer, token in head.pairs
        if layer not in backbone.layers or token not in backbone.tokens
    ]
    if missing:
        raise HeadMismatchError(
            f"this head reads tokens that this {backbone.name} was loaded without: {', '.join(missing[:6])}"
        )


def backbone_of(
    head: FittedHead,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> Backbone:
    """The backbone that `head` was trained on, with the layers and tokens it reads, in float32 up to the head.

    Raises HeadMismatchError where `weights` (or, without them, what the model's name stands for) are others, and what load_backbone raises.
    """
    if precision not in COMPUTE:
        raise OptionError(f"precision must be one of {', '.join(COMPUTE)}, got {precision!r}")
    layers = sorted({layer for layer, _ in head.pairs})
    for paper_compat in (False, True):
        backbone = load_backbone(
            head.origin.model,
            weights=weights,
            tap=head.origin.tap,  # type: ignore[arg-type]  # a cache's spec held it
            layers=layers,
            tokens=token_kinds([token for _, token in head.pairs]),
            projected=head.origin.projected,
            precision=precision,  # type: ignore[arg-type]
            store_dtype="float32",
            device=device,
            paper_compat=paper_compat,
        )
        if backbone.digest != head.origin.weights or backbone.preprocessing.to_json() == dict(
            head.origin.preprocessing
        ):
            break
    return backbone


def token_kinds(names: Sequence[str]) -> tuple[str, ...]:
    """The kinds that `load_backbone` takes, out of stored names: "cls", "grid:2/0", "grid:2/1" -> "cls", "grid:2"."""
    kinds = list(
        dict.fromkeys("all" if name.startswith("patch/") else name.split("/")[0] for name in names)
    )
    return tuple(kind for kind in kinds if not (kind == "cls" and "all" in kinds))
