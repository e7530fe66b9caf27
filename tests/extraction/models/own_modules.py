"""ViTs that a user might have, tiny and random, for tests of `Encoder`.

Images are 32 x 32, patches 8 x 8: a grid of 4 x 4.
"""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from layercache.extraction.models.encoder import Encoder
from layercache.extraction.models.preprocessing.options import PreprocessingOptions

WIDTH = 24
PREPROCESSING = PreprocessingOptions(
    input_size=32, crop_pct=0.8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)
)


class PlainBlock(nn.Module):
    """A pre-norm block that returns its hidden state alone, or in a tuple."""

    def __init__(self, *, returns_tuple: bool = False) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.ln_2 = nn.LayerNorm(WIDTH)
        self.c_fc = nn.Linear(WIDTH, 40)
        self.gelu = nn.GELU()
        self.c_proj = nn.Linear(40, WIDTH)
        self.returns_tuple = returns_tuple

    def forward(self, x: Tensor) -> Any:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        x = x + self.c_proj(self.gelu(self.c_fc(self.ln_2(x))))
        return (None, x) if self.returns_tuple else x


class PlainViT(nn.Module):
    """A ViT with `prefix` learned tokens; its forward counts its blocks."""

    def __init__(self, *, prefix: int = 3, depth: int = 3, returns_tuple: bool = False) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 8, stride=8)
        self.prefix = nn.Parameter(torch.randn(1, prefix, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, prefix + 16, WIDTH))
        self.layers = nn.ModuleList(PlainBlock(returns_tuple=returns_tuple) for _ in range(depth))
        self.ln_post = nn.LayerNorm(WIDTH)
        self.depth = depth

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for i in range(self.depth):
            x = self.layers[i](x)
            x = x if isinstance(x, Tensor) else x[1]
        pooled: Tensor = self.ln_post(x[:, 0])
        return pooled


class TransformerEncoderViT(nn.Module):
    """A ViT of torch.nn.TransformerEncoder."""

    def __init__(self, *, batch_first: bool = True, norm_first: bool = True) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 8, stride=8)
        self.positions = nn.Parameter(torch.randn(1, 16, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 2, 40, batch_first=batch_first, norm_first=norm_first, activation="gelu"
        )
        self.body = nn.TransformerEncoder(
            layer, 3, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False
        )
        self.batch_first = batch_first

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2) + self.positions
        out: Tensor = self.body(x if self.batch_first else x.transpose(0, 1))
        return out


def randomize(module: nn.Module, *, seed: int = 3) -> nn.Module:
    """Give every parameter random values, also those that start as zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 1.0 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return module


def plain(
    *, module: nn.Module | None = None, returns_tuple: bool = False, **options: Any
) -> Encoder:
    """Return an Encoder of PlainViT: a class token and two registers."""
    described: dict[str, Any] = {
        "blocks": "layers",
        "final_norm": "ln_post",
        "prefix_tokens": 3,
        "registers": 2,
        "norm1": "ln_1",
        "attn": "attn[0]",
        "norm2": "ln_2",
        "fc1": "c_fc",
        "act": "gelu",
        "mlp": "c_proj",
        "block_output": 1 if returns_tuple else None,
    }
    module = module or randomize(PlainViT(returns_tuple=returns_tuple))
    return encoder(module, **(described | options))


def torch_encoder(
    *,
    module: nn.Module | None = None,
    batch_first: bool = True,
    norm_first: bool = True,
    **options: Any,
) -> Encoder:
    """Return an Encoder of TransformerEncoderViT, which has no prefix tokens."""
    described: dict[str, Any] = {
        "blocks": "body.layers",
        "final_norm": "body.norm",
        "prefix_tokens": 0,
        "class_token": None,
        "norm1": "norm1",
        "attn": "self_attn[0]",
        "norm2": "norm2",
        "fc1": "linear1",
        "act": "dropout",
        "mlp": "linear2",
        "batch_first": batch_first,
    }
    module = module or randomize(
        TransformerEncoderViT(batch_first=batch_first, norm_first=norm_first)
    )
    return encoder(module, **(described | options))


def torchvision_vit(*, module: nn.Module | None = None, **options: Any) -> Encoder:
    """Return an Encoder of torchvision's VisionTransformer."""
    fresh = torchvision.models.VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=3,
        num_heads=2,
        hidden_dim=WIDTH,
        mlp_dim=40,
        num_classes=5,
    )
    described: dict[str, Any] = {
        "blocks": "encoder.layers",
        "final_norm": "encoder.ln",
        "norm1": "ln_1",
        "attn": "self_attention[0]",
        "norm2": "ln_2",
        "fc1": "mlp.0",
        "act": "mlp.1",
        "mlp": "mlp",
    }
    return encoder(module or randomize(fresh), **(described | options))


def encoder(module: nn.Module, **options: Any) -> Encoder:
    return Encoder(module, **({"name": "mine", "preprocessing": PREPROCESSING} | options))
