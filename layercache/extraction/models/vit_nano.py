"""`vit_nano`: a small ViT that ships with the package, so that everything runs without a download.

1.35 M parameters, 12 blocks, width 96, 3 heads, patches of 4 x 4 on images of 28 x 28: 49 patch
tokens and one class token. Pretrained on Fashion-MNIST by `benchmarks/pretrain_nano.py`;
`benchmarks/LOG.md` has the accuracy, the seed and the time.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from timm.models.vision_transformer import VisionTransformer

ARCHITECTURE = "vit_nano_patch4_28"
DATA_CONFIG = {
    "input_size": (3, 28, 28),
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "crop_mode": "center",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}
"""Preprocessing, as in timm's pretrained configurations."""


def create_vit_nano(**options: Any) -> VisionTransformer:
    """Return the architecture with random weights: (N, 3, 28, 28) to logits (N, 10).

    Args:
        **options: Further arguments of timm's `VisionTransformer`.
    """
    model = VisionTransformer(
        img_size=28, patch_size=4, embed_dim=96, depth=12, num_heads=3, num_classes=10, **options
    )
    config = {"architecture": ARCHITECTURE, "num_classes": 10, **DATA_CONFIG}
    model.pretrained_cfg = model.default_cfg = config
    return model


def weights_path() -> Path:
    """Return the path of the bundled float16 checkpoint (safetensors)."""
    return Path(str(files("layercache.extraction.models") / "vit_nano.safetensors"))
