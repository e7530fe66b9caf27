"""The heads as ordinary modules, for any training loop.

    head = layercache.heads.AttentiveHead(tokens=24, width=768, classes=10)
    logits = head(x)                 # x: (B, 24, 768), such as CLS and AP of 12 layers
    weights = head.attention(x)      # (B, 24 heads, 24 tokens)
    head = layercache.heads.load("CACHE/probes/ID")      # a trained one

The linear and attentive heads are those of arXiv 2601.09322. `layercache.probe` trains a whole grid
of configurations of these heads in one pass (`layercache.probing.heads`); the parameters have the
same names there, in checkpoints and here.
"""

from layercache.heads.attentive import AttentiveHead
from layercache.heads.efficient import EfficientHead
from layercache.heads.fusion import FusionBranch, FusionHead
from layercache.heads.hybrid import HybridHead
from layercache.heads.linear import LinearHead
from layercache.heads.loading import AnyHead, load
from layercache.heads.multi_encoder import MultiEncoderHead
from layercache.heads.scalar_mix import ScalarMixHead

__all__ = [
    "AnyHead",
    "AttentiveHead",
    "EfficientHead",
    "FusionBranch",
    "FusionHead",
    "HybridHead",
    "LinearHead",
    "MultiEncoderHead",
    "ScalarMixHead",
    "load",
]
