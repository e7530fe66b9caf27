"""A name to a frozen timm ViT that turns uint8 images into the tokens of every layer, in one forward.

Shapes: B images of H x W pixels, L layers, T tokens of a layer, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layercache.cache.format.selection import resolve_layers
from layercache.cache.format.spec import Precision, StoreDtype, Tap
from layercache.errors import OptionError
from layercache.extraction.models import preprocessing
from layercache.extraction.models.pooling import TokenPlan, parse_kinds
from layercache.extraction.models.preprocessing import Preprocessing
from layercache.extraction.models.registry import MODELS, ModelInfo
from layercache.extraction.models.taps import TapPoint, drop_later_blocks, find_taps
from layercache.extraction.models.timm_source import LoadedModel, build, has_class_token

__all__ = ["MODELS", "Backbone", "ModelInfo", "load_backbone"]

# Half precision casts the whole model. Autocast would keep the residual stream in float32 and gains little by it: on CLIP B/16 the mean
# error of a token is 1.7 % of its length in bf16 (autocast 1.4 %), 0.2 % in fp16; storage in float16 adds 0.04 % at most.
COMPUTE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STORE = {"float16": torch.float16, "float32": torch.float32}


class Backbone:
    """A frozen ViT with taps. Call it with uint8 images; it pools at the taps, so patch tokens of a layer live no longer than that layer."""

    def __init__(
        self,
        *,
        built: LoadedModel,
        name: str,
        tap: Tap,
        layers: tuple[int, ...],
        plan: TokenPlan,
        projected: bool,
        precision: Precision,
        store_dtype: StoreDtype,
        device: str,
        compile: bool,
    ) -> None:
        self.name = name
        self.architecture = built.architecture
        self.digest = built.digest
        self.preprocessing: Preprocessing = built.preprocessing
        self.notes = built.notes
        """What the user should be told once, e.g. that positions were resampled."""
        self.depth = built.depth
        self.width = built.width
        self.tap = tap
        self.layers = layers
        self.tokens = plan.names
        """The T stored names."""
        self.projected = projected
        self.precision = precision
        self.store_dtype = store_dtype
        self.device = torch.device(device)
        self._plan = plan
        # The projection works on pooled tokens, in float32: it is affine, so the projected mean is the mean of the projected patches.
        self.projection = (
            built.head.to(self.device) if projected and built.head is not None else None
        )
        """CLIP's map into the joint space, where it was asked for."""
        self.module = built.module.to(self.device, COMPUTE[precision])
        """The timm module: evaluation mode, no gradients, no head."""
        self._taken: dict[int, Tensor] = {}
        for point in find_taps(self.module, tap=tap, layers=layers, architecture=self.architecture):
            point.module.register_forward_hook(_TapHook(self, point))
        drop_later_blocks(self.module, tap=tap, layers=layers)
        self._forward = torch.compile(self.run) if compile else self.run

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W), as `preprocessing` gives them -> tokens (L, T, B, D) in the storage dtype, on the device."""
        height, width = self.preprocessing.input_size
        if images.dtype != torch.uint8 or images.shape[1:] != (3, height, width):
            raise OptionError(
                f"{self.name}: expected uint8 images (B, 3, {height}, {width}), got {images.dtype} {tuple(images.shape)}"
            )
        with torch.inference_mode():
            x = self.preprocessing.normalise(images.to(self.device, non_blocking=True))
            return self._forward(x.to(COMPUTE[self.precision]))

    def run(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) in the forward's dtype -> tokens (L, T, B, D) in the storage dtype."""
        self._taken.clear()
        self.module.forward_features(x)  # type: ignore[operator]
        taken = torch.stack([self._taken[layer] for layer in self.layers])
        self._taken.clear()
        return taken

    def read(self, hidden: Tensor, point: TapPoint) -> Tensor:
        """One layer's hidden state (B, N, D) -> its tokens (T, B, D) in the storage dtype."""
        if point.then is not None:
            hidden = point.then(hidden)
        tokens = self._plan.pool(hidden)
        if self.projection is not None and point.layer == self.depth:
            tokens = self.projection(tokens)
            tokens = F.pad(tokens, (0, self.width - tokens.shape[-1]))
        return tokens.to(STORE[self.store_dtype])


@dataclass(frozen=True)
class _TapHook:
    """A forward hook that keeps a layer's tokens."""

    backbone: Backbone
    point: TapPoint

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.backbone._taken[self.point.layer] = self.backbone.read(output, self.point)


def load_backbone(
    name: str,
    *,
    weights: str | Path | None = None,
    tap: Tap = "norm2",
    layers: str | Sequence[int] = "all",
    tokens: str | Sequence[str] = ("cls", "ap"),
    projected: bool = False,
    precision: Precision = "fp32",
    store_dtype: StoreDtype = "float16",
    device: str = "cpu",
    compile: bool = False,
    paper_compat: bool = False,
) -> Backbone:
    """The backbone `name`: a short name of MODELS or any timm ViT by its timm name.

    weights: a safetensors or torch file; without it, what ships with the package or what timm downloads.
    layers: "all", "last", "mid-last", "quarter", "1,5,9" or numbers of 1..B. tokens: kinds of tokens.KINDS, "+" or "," between them.
    projected: put the last layer's tokens through CLIP's projection into the joint space and pad with zeros to the width.
    paper_compat: the paper's quirks: DINOv2 and MAE are resized bilinearly to 256 and cropped to 224.
    Raises UnknownNameError, OptionError, BackboneError.
    """
    for option, value, known in (
        ("precision", precision, COMPUTE),
        ("store_dtype", store_dtype, STORE),
    ):
        if value not in known:
            raise OptionError(f"{option} must be one of {', '.join(known)}, got {value!r}")
    kinds = parse_kinds(tokens)
    spelled = layers if isinstance(layers, str) else ",".join(map(str, layers))

    def check(module: Any) -> None:
        TokenPlan(
            kinds=kinds,
            class_token=has_class_token(module),
            prefix=module.num_prefix_tokens,
            grid=tuple(module.patch_embed.grid_size),
        )
        find_taps(
            module,
            tap=tap,
            layers=resolve_layers(spelled, len(module.blocks)),
            architecture=module.pretrained_cfg["architecture"],
        )

    built = build(
        name,
        weights=weights,
        keep_head=projected,
        change=preprocessing.paper_compat if paper_compat else None,
        check=check,
    )
    plan = TokenPlan(
        kinds=kinds, class_token=built.class_token, prefix=built.prefix, grid=built.grid
    )
    return Backbone(
        built=built,
        name=name,
        tap=tap,
        layers=resolve_layers(spelled, built.depth),
        plan=plan,
        projected=projected,
        precision=precision,
        store_dtype=store_dtype,
        device=device,
        compile=compile,
    )
