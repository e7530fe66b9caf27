"""The backbones that have a short name.

Plain data: importing this file imports neither torch nor timm. A test compares it with timm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

CropMode = Literal["center", "squash", "border"]


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    """An evaluation transform: resize, then crop the center."""

    crop_pct: float
    """Side of the crop over that of the resized image."""
    interpolation: str
    """Resampling filter of the resize."""
    crop_mode: CropMode = "center"
    """Scaling of the image; see `Preprocessing.crop_mode`."""
    source: str
    """Address where it is published."""


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
    transform: EvalTransform | None = None
    """Evaluation transform of the makers for a short name, of timm's metadata for a timm name."""
    timm_crop_pct: float | None = None
    """`crop_pct` in timm's metadata, which agrees with MAKERS_TRANSFORMS in everything else."""
    class_token: bool = True
    """True if it has a class token; all models of MODELS have one."""
    class_attention: bool = True
    """True if the class token's attention in every block is known; so in all models of MODELS."""
    registers: bool = False
    """True if it has registers; no model of MODELS has any."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Token kinds of a layer, for --tokens."""
        return (
            *(("cls",) if self.class_token else ()),
            "ap",
            *(("reg",) if self.registers else ()),
            "std",
            "max",
            *(("attn",) if self.class_token and self.class_attention else ()),
            "grid:K",
            "all",
        )

    @property
    def resize(self) -> int:
        """Short edge in pixels after the resize, before the crop of `input_size`."""
        return math.floor(self.input_size / (self.transform.crop_pct if self.transform else 1.0))

    @property
    def timm_resize(self) -> int | None:
        """`resize` by timm's metadata where that differs from `transform`, else None."""
        if self.transform is None or self.timm_crop_pct in (None, self.transform.crop_pct):
            return None
        return math.floor(self.input_size / self.timm_crop_pct)


_CROP_224_OF_256 = 224 / 256
MAKERS_TRANSFORMS = MappingProxyType(
    {
        "openai": EvalTransform(
            crop_pct=1.0,
            interpolation="bicubic",
            source="openai/CLIP, clip/clip.py, _transform",
        ),
        "lvd142m": EvalTransform(
            crop_pct=_CROP_224_OF_256,
            interpolation="bicubic",
            source="facebookresearch/dinov2, dinov2/data/transforms.py, "
            "make_classification_eval_transform",
        ),
        "mae": EvalTransform(
            crop_pct=_CROP_224_OF_256,
            interpolation="bicubic",
            source="facebookresearch/mae, main_linprobe.py, transform_val",
        ),
        # Google published the AugReg weights with a plain stretch to the input size; timm ported
        # and evaluated them with the transform of its own ImageNet models.
        "augreg_in21k_ft_in1k": EvalTransform(
            crop_pct=0.9,
            interpolation="bicubic",
            source="timm, models/vision_transformer.py, _cfg",
        ),
        "augreg2_in21k_ft_in1k": EvalTransform(
            crop_pct=0.9,
            interpolation="bicubic",
            source="timm, models/vision_transformer.py, _cfg",
        ),
        "nano": EvalTransform(
            crop_pct=1.0,
            interpolation="bicubic",
            source="layercache, benchmarks/pretrain_nano.py",
        ),
    }
)
"""Weights tag of timm -> the transform that the makers of these weights evaluate them with.

Short names use it. A timm name keeps timm's metadata, with a note where the two differ.
"""

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

_UNCROPPED_BY_TIMM = {"dinov2_s14", "dinov2_b14", "dinov2_l14", "clip_l14", "vit_nano"}
"""Short names with a crop_pct of 1 in timm's metadata, instead of 0.9."""

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
            transform=MAKERS_TRANSFORMS[architecture.partition(".")[2] or "nano"],
            timm_crop_pct=1.0 if name in _UNCROPPED_BY_TIMM else 0.9,
            note=note,
        )
        for name, architecture, params_m, width, depth, input_size, patch_size, note in _ROWS
    }
)
"""Short name -> backbone. Any other ViT goes by its timm name."""


def list_models() -> list[ModelInfo]:
    """Return the backbones that have a short name, as `layercache models` lists them.

    Other ViTs go by their timm names or addresses, see `extract`.

    >>> pandas.DataFrame(layercache.list_models())[["name", "depth", "width"]]  # doctest: +SKIP
    """
    return list(MODELS.values())
