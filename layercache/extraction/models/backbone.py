"""A frozen ViT that turns uint8 images into the tokens of every layer, in one forward.

Shapes: B images of H x W pixels, L layers, N tokens of a hidden state, T stored tokens of a layer,
D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layercache._devices import check_dtype
from layercache.cache.format.cache_spec import Precision, StorageDtype, Tap
from layercache.errors import BackboneError, OptionError
from layercache.extraction.image_input import Images, iter_pixels
from layercache.extraction.models.module_paths import hidden_state
from layercache.extraction.models.pooling import TokenPooling
from layercache.extraction.models.taps import (
    TapPoint,
    drop_later_blocks,
    find_taps,
)
from layercache.extraction.models.vit import (
    Block,
    ClassAttention,
    LoadedModel,
)

# Half precision casts the whole model. Autocast would keep the residual stream in float32 and gains
# little by it: on CLIP B/16 the mean error of a token is 1.7 % of its length in bf16 (autocast
# 1.4 %), 0.2 % in fp16; storage in float16 adds 0.04 % at most.
COMPUTE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STORAGE_DTYPES = {"float16": torch.float16, "float32": torch.float32}


class Backbone:
    """A frozen ViT with taps.

    Tokens are pooled at the taps, so a layer's patch tokens are freed before the next layer's.
    """

    def __init__(
        self,
        *,
        model: LoadedModel,
        name: str,
        tap: Tap,
        layers: tuple[int, ...],
        pooling: TokenPooling,
        precision: Precision,
        storage_dtype: StorageDtype,
        device: str,
        compile: bool,
        run_layers: Sequence[int] | None = None,
    ) -> None:
        """Move a model to its device and register the taps; see `load_encoder`.

        Blocks after the last of `run_layers`, by default `layers`, are removed.
        """
        vit = model.vit
        self.name = name
        self.architecture = vit.architecture
        self.weights_digest = model.weights_digest
        self.preprocessing = model.preprocessing
        self.notes = model.notes
        """Remarks for the user, e.g. that positions were resampled."""
        self.depth = len(vit.blocks)
        self.tap = tap
        self.layers = layers
        self.tokens = pooling.names
        """Names of the T stored tokens."""
        self.projected = model.projection is not None
        self.precision = precision
        self.compute_dtype = COMPUTE_DTYPES[precision]
        self.storage_dtype = storage_dtype
        self.device = torch.device(device)
        check_dtype(self.device, self.compute_dtype)
        self._pooling = pooling
        # The projection works on pooled tokens, in float32: it is affine, so the projected mean is
        # the mean of the projected patches.
        self.projection = model.projection.to(self.device) if model.projection else None
        """CLIP's map into the joint space, if requested."""
        self.module = vit.module.to(self.device, self.compute_dtype)
        """The model's module: evaluation mode, no gradients."""
        self.bare_forward = vit.forward
        """Runs the module, given normalised images (B, 3, H, W) in the compute dtype."""
        self._batch_first = vit.batch_first
        self._tokens_by_layer: dict[int, Tensor] = {}
        self.active = False
        """Whether the taps keep tokens: only while a forward runs for this backbone."""
        self.token_encoder: Callable[[Tensor, int], Tensor] | None = None
        """Encodes the tokens of a layer by a codec, (T, B, D) -> codes (T, B, W); the second
        argument is the index of the layer."""
        self.spatial: Backbone | None = None
        """A backbone of the same module for the spatial tokens, if they were requested."""
        points = find_taps(vit, tap=tap, layers=layers)
        self.width = points[0].place.width
        """D, the length of a stored token."""
        self._attention: dict[int, ClassAttention] = {}
        if "attn" in pooling.kinds:
            self._attention = _read_attention(points, num_prefix_tokens=vit.num_prefix_tokens)
        for point in points:
            point.place.module.register_forward_hook(_TapHook(self, point), with_kwargs=True)
        drop_later_blocks(vit, tap=tap, layers=run_layers or layers)
        if vit.is_own:
            self._try_forward()
        self._forward = torch.compile(self.forward_tokens) if compile else self.forward_tokens

    def __call__(self, images: Tensor) -> Tensor:
        """Return the tokens of uint8 images.

        Args:
            images: uint8 (B, 3, H, W), resized and cropped by `preprocessing`.

        Returns:
            Tokens (L, T, B, D) in the storage dtype, on the device.

        Raises:
            OptionError: The images have another dtype or shape.
        """
        height, width = self.preprocessing.input_size
        if images.dtype != torch.uint8 or images.shape[1:] != (3, height, width):
            raise OptionError(
                f"{self.name}: expected uint8 images (B, 3, {height}, {width}), "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        with torch.inference_mode():
            return self._forward(self.normalize(images))

    def normalize(self, images: Tensor) -> Tensor:
        """Return uint8 images (B, 3, H, W) normalised, on the device in the compute dtype."""
        x = self.preprocessing.normalize(images.to(self.device, non_blocking=True))
        return x.to(self.compute_dtype)

    def encode(self, images: Images, *, batch_size: int = 32) -> Tensor:
        """Return the tokens of images, (L, T, B, D) in the storage dtype on the CPU.

        Args:
            images: A PIL image, an image file, a folder (all images below it, sorted by name),
                uint8 (3, H, W) or (B, 3, H, W) in the input size, or a list of these.
            batch_size: Images per forward.

        Raises:
            DataNotFoundError: A path does not exist, or a folder has no images.
            DataError: An image cannot be decoded.
            OptionError: Something is no image, or a tensor has another size or dtype.
        """
        transform = self.preprocessing
        batches = iter_pixels(images, preprocessings=[transform], batch_size=batch_size)
        tokens = [self(pixels[transform]).cpu() for pixels in batches]
        if not tokens:
            raise OptionError("images: expected at least one, got none")
        return torch.cat(tokens, dim=2)

    def forward_tokens(self, x: Tensor) -> Tensor:
        """Return the tokens of normalised images.

        Args:
            x: (B, 3, H, W) in the compute dtype.

        Returns:
            Tokens (L, T, B, D) in the storage dtype.
        """
        return forward_together([self], x)[0]

    def collect(self) -> Tensor:
        """Return the tokens that the taps have kept, (L, T, B, D), and forget them."""
        tokens = torch.stack([self._tokens_by_layer[layer] for layer in self.layers])
        self.forget()
        return tokens

    def forget(self) -> None:
        """Forget what the taps have kept."""
        self._tokens_by_layer.clear()
        for attention in self._attention.values():
            attention.clear()

    def _try_forward(self) -> None:
        """Raise BackboneError if the module cannot run one image on this device and so."""
        shape = (1, 3, *self.preprocessing.input_size)
        try:
            with torch.inference_mode():
                self.forward_tokens(
                    torch.zeros(shape, dtype=self.compute_dtype, device=self.device)
                )
        except (RuntimeError, TypeError) as e:  # of torch, about dtypes, devices or operators
            raise BackboneError(
                f"{self.name}: its forward fails on {self.device.type} in {self.precision}: "
                f"{str(e).splitlines()[0]}: choose another precision or device, or let the "
                "module's own tensors follow its input's dtype and device"
            ) from e

    def pool(self, hidden: Tensor, point: TapPoint) -> Tensor:
        """Pool a layer's hidden state (B, N, D) to tokens (T, B, D) in the storage dtype.

        With a codec they are encoded, (T, B, W). The hidden state is (N, B, D) for a model that is
        not batch-first.
        """
        if not self._batch_first:
            hidden = hidden.transpose(0, 1)
        if point.norm is not None:
            hidden = point.norm(hidden)
        attention = self._attention.get(point.layer)
        weights = attention.weights_bp if attention else None
        tokens = self._pooling.pool(hidden, weights)
        if self.projection is not None and point.layer == self.depth:
            tokens = self.projection(tokens)
            tokens = F.pad(tokens, (0, self.width - tokens.shape[-1]))
        if self.token_encoder is not None:
            return self.token_encoder(tokens, self.layers.index(point.layer))
        return tokens.to(STORAGE_DTYPES[self.storage_dtype])


@dataclass(frozen=True)
class _TapHook:
    """A forward hook that keeps a layer's tokens."""

    backbone: Backbone
    point: TapPoint

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not self.backbone.active:
            return
        hidden = hidden_state(self.point.place, args, kwargs, output)
        self.backbone._tokens_by_layer[self.point.layer] = self.backbone.pool(hidden, self.point)


def forward_together(backbones: Sequence[Backbone], x: Tensor) -> tuple[Tensor, ...]:
    """Return the tokens of backbones that share a module, from one forward.

    Args:
        backbones: Backbones of one module.
        x: Normalised images (B, 3, H, W) in the compute dtype.

    Returns:
        The tokens or codes of each, (L, T, B, D).
    """
    for backbone in backbones:
        backbone.forget()
        backbone.active = True
    try:
        backbones[0].bare_forward(x)
        return tuple(backbone.collect() for backbone in backbones)
    finally:
        for backbone in backbones:
            backbone.active = False


class JointForward:
    """uint8 images to the tokens of backbones that share a module, in one forward."""

    def __init__(self, backbones: Sequence[Backbone], *, compile: bool = False) -> None:
        """Keep the backbones.

        Args:
            backbones: Backbones of one module.
            compile: Compile the forward with torch.compile.
        """
        self.backbones = tuple(backbones)
        self._forward = torch.compile(forward_together) if compile else forward_together

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the tokens or codes of each backbone, (L, T, B, D), of uint8 (B, 3, H, W)."""
        with torch.inference_mode():
            return self._forward(self.backbones, self.backbones[0].normalize(images))


def _read_attention(
    points: Sequence[TapPoint], *, num_prefix_tokens: int
) -> dict[int, ClassAttention]:
    """Return the class token's attention for every layer; layers may share a block's."""
    by_block: dict[Block, ClassAttention] = {}
    for point in points:
        if point.block not in by_block:
            assert point.block.class_attention is not None
            by_block[point.block] = point.block.class_attention(num_prefix_tokens)
    return {point.layer: by_block[point.block] for point in points}
