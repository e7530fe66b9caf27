"""`vit_nano`: the small ViT that ships with the package, so that everything can be tried without a download.

1.35 M parameters, 12 blocks, width 96, 3 heads, patches of 4 x 4 on images of 28 x 28: 49 patch tokens and one CLS token.
Its weights were pretrained on Fashion-MNIST by `benchmarks/pretrain_nano.py`; `benchmarks/LOG.md` has the accuracy, the seed and the time.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from timm.models.vision_transformer import VisionTransformer

ARCHITECTURE = "vit_nano_patch4_28"
PREPROCESSING = {
    "input_size": (3, 28, 28),
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "crop_mode": "center",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}


def build(**options: Any) -> VisionTransformer:
    """The architecture with random weights: a timm `VisionTransformer` from (N, 3, 28, 28) to (N, 10) logits."""
    model = VisionTransformer(
        img_size=28, patch_size=4, embed_dim=96, depth=12, num_heads=3, num_classes=10, **options
    )
    model.pretrained_cfg = model.default_cfg = {
        "architecture": ARCHITECTURE,
        "num_classes": 10,
        **PREPROCESSING,
    }
    return model


def weights_path() -> Path:
    """The bundled float16 checkpoint (safetensors)."""
    return Path(str(files("layercache.extraction.models") / "vit_nano.safetensors"))
