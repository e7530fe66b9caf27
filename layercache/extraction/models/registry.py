"""The backbones that have a short name.

Plain data: importing this file imports neither torch nor timm. A test compares it with timm.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A backbone, as `layercache models` lists it."""

    name: str
    """Short name for --model."""
    architecture: str
    """timm's model name with its weights tag; for `vit_nano` the bundled architecture's name."""
    params_m: float
    """Millions of parameters at `input_size`, without the classifier."""
    width: int
    """Token width D."""
    depth: int
    """Number of blocks B, which is the number of layers that can be cached."""
    input_size: int
    """Side of the square input in pixels."""
    patch_size: int
    """Side of a patch in pixels."""
    note: str
    """Training data and peculiarities."""
    class_token: bool = True
    """True if it has a class token; all models of MODELS have one."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Token kinds of a layer, for --tokens."""
        return (*(("cls",) if self.class_token else ()), "ap", "grid:K", "all")


_CLIP = "OpenAI, with QuickGELU; --projected stores the joint space"
_DINOV2 = "self-supervised on LVD-142M; run at 224, native 518"
_IN21K = "supervised, ImageNet-21k then 1k"
_MAE = "masked autoencoder on ImageNet-1k, no labels"
_NANO = "ships with layercache, works offline; supervised on Fashion-MNIST"

# name, timm architecture, parameters in millions, width, depth, input size, patch size, note
_ROWS = (
    ("vit_s16", "vit_small_patch16_224.augreg_in21k_ft_in1k", 21.67, 384, 12, 224, 16, _IN21K),
    ("vit_b16", "vit_base_patch16_224.augreg2_in21k_ft_in1k", 85.80, 768, 12, 224, 16, _IN21K),
    ("vit_l16", "vit_large_patch16_224.augreg_in21k_ft_in1k", 303.30, 1024, 24, 224, 16, _IN21K),
    ("dinov2_s14", "vit_small_patch14_dinov2.lvd142m", 21.63, 384, 12, 224, 14, _DINOV2),
    ("dinov2_b14", "vit_base_patch14_dinov2.lvd142m", 85.72, 768, 12, 224, 14, _DINOV2),
    ("dinov2_l14", "vit_large_patch14_dinov2.lvd142m", 303.23, 1024, 24, 224, 14, _DINOV2),
    ("clip_b32", "vit_base_patch32_clip_quickgelu_224.openai", 87.46, 768, 12, 224, 32, _CLIP),
    ("clip_b16", "vit_base_patch16_clip_quickgelu_224.openai", 85.80, 768, 12, 224, 16, _CLIP),
    ("clip_l14", "vit_large_patch14_clip_quickgelu_224.openai", 303.18, 1024, 24, 224, 14, _CLIP),
    ("mae_b16", "vit_base_patch16_224.mae", 85.80, 768, 12, 224, 16, _MAE),
    ("mae_l16", "vit_large_patch16_224.mae", 303.30, 1024, 24, 224, 16, _MAE),
    ("vit_nano", "vit_nano_patch4_28", 1.35, 96, 12, 28, 4, _NANO),
)

MODELS = MappingProxyType(
    {
        name: ModelInfo(
            name=name,
            architecture=architecture,
            params_m=params_m,
            width=width,
            depth=depth,
            input_size=input_size,
            patch_size=patch_size,
            note=note,
        )
        for name, architecture, params_m, width, depth, input_size, patch_size, note in _ROWS
    }
)
"""Short name -> backbone. Any other ViT goes by its timm name."""
