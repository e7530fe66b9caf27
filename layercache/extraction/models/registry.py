"""The backbones that have a short name. Plain figures: reading this file imports neither torch nor timm (a test holds the figures to timm's)."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a person needs to choose a backbone."""

    name: str
    """The short name, as given to --model."""
    architecture: str
    """timm's model name with its weights tag; for `vit_nano` the name of the bundled architecture."""
    params_m: float
    """Millions of parameters at `input_size`, without the classifier."""
    width: int
    """D, the length of one token."""
    depth: int
    """Number of blocks B, which is the number of layers that can be cached."""
    input_size: int
    """Side of the square input in pixels."""
    patch: int
    """Side of a patch in pixels."""
    note: str
    """What it was trained on, and anything one should know before choosing it."""

    class_token: bool = True
    """It has a class token; all models of MODELS do."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """The token kinds that one layer offers to --tokens."""
        return (*(("cls",) if self.class_token else ()), "ap", "grid:K", "all")


_QUICK = "OpenAI, with its QuickGELU; --projected stores the joint space"
_DINO = "self-supervised on LVD-142M; run at 224, native 518"

_ROWS = (
    (
        "vit_s16",
        "vit_small_patch16_224.augreg_in21k_ft_in1k",
        21.67,
        384,
        12,
        224,
        16,
        "supervised, ImageNet-21k then 1k",
    ),
    (
        "vit_b16",
        "vit_base_patch16_224.augreg2_in21k_ft_in1k",
        85.80,
        768,
        12,
        224,
        16,
        "supervised, ImageNet-21k then 1k",
    ),
    (
        "vit_l16",
        "vit_large_patch16_224.augreg_in21k_ft_in1k",
        303.30,
        1024,
        24,
        224,
        16,
        "supervised, ImageNet-21k then 1k",
    ),
    ("dinov2_s14", "vit_small_patch14_dinov2.lvd142m", 21.63, 384, 12, 224, 14, _DINO),
    ("dinov2_b14", "vit_base_patch14_dinov2.lvd142m", 85.72, 768, 12, 224, 14, _DINO),
    ("dinov2_l14", "vit_large_patch14_dinov2.lvd142m", 303.23, 1024, 24, 224, 14, _DINO),
    ("clip_b32", "vit_base_patch32_clip_quickgelu_224.openai", 87.46, 768, 12, 224, 32, _QUICK),
    ("clip_b16", "vit_base_patch16_clip_quickgelu_224.openai", 85.80, 768, 12, 224, 16, _QUICK),
    ("clip_l14", "vit_large_patch14_clip_quickgelu_224.openai", 303.18, 1024, 24, 224, 14, _QUICK),
    (
        "mae_b16",
        "vit_base_patch16_224.mae",
        85.80,
        768,
        12,
        224,
        16,
        "masked autoencoder on ImageNet-1k, no labels",
    ),
    (
        "mae_l16",
        "vit_large_patch16_224.mae",
        303.30,
        1024,
        24,
        224,
        16,
        "masked autoencoder on ImageNet-1k, no labels",
    ),
    (
        "vit_nano",
        "vit_nano_patch4_28",
        1.35,
        96,
        12,
        28,
        4,
        "ships with layercache, works offline; supervised on Fashion-MNIST",
    ),
)

MODELS = MappingProxyType(
    {
        name: ModelInfo(
            name=name,
            architecture=arch,
            params_m=params,
            width=width,
            depth=depth,
            input_size=size,
            patch=patch,
            note=note,
        )
        for name, arch, params, width, depth, size, patch, note in _ROWS
    }
)
"""Short name -> its figures. Any other ViT goes by its timm name."""
