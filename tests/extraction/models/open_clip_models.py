"""Small models of OpenCLIP with random weights, as folders in OpenCLIP's layout."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.model import CLIP
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file
from torch import Tensor, nn

IMAGES = torch.randint(
    0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)
DEPTH, WIDTH, OUT = 3, 24, 16
VISION = {
    "image_size": 32,
    "layers": DEPTH,
    "width": WIDTH,
    "head_width": 12,
    "patch_size": 8,
    "mlp_ratio": 2.0,
}
TEXT = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
TRANSFORM = {
    "mean": (0.5, 0.4, 0.3),
    "std": (0.25, 0.2, 0.3),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
# further options of the vision configuration, of the model, of the preprocessing
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}, {}),
    "quickgelu": ({}, {"quick_gelu": True}, {}),
    "layer_scale": ({"ls_init_value": 0.1}, {}, {"resize_mode": "squash"}),
    "clipa": (
        {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        {},
        {"resize_mode": "squash", "interpolation": "bilinear"},
    ),
    "custom": ({"scale_fc": True, "scale_attn": True}, {}, {"interpolation": "bilinear"}),
    "wide": ({"image_size": (32, 48)}, {}, {"interpolation": "bilinear"}),
    "coca": (
        {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2},
        {},
        {},
    ),
}


def config(kind: str) -> dict[str, Any]:
    """Return OpenCLIP's model configuration."""
    vision, model, _ = KINDS[kind]
    return {"embed_dim": OUT, "vision_cfg": {**VISION, **vision}, "text_cfg": TEXT, **model}


def build(kind: str) -> Any:
    """Return the model with fixed random weights, all far from their initial zeros and ones."""
    module = CLIP(**config(kind))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in module.named_parameters():
        offset = float("ln_" in name and name.endswith("weight"))
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator) + offset
    return module.eval()


@functools.cache
def folder(kind: str) -> Path:
    """Return a folder with configuration and weights, written once."""
    path = _root() / kind
    path.mkdir()
    values = {"model_cfg": config(kind), "preprocess_cfg": {**TRANSFORM, **KINDS[kind][2]}}
    (path / "open_clip_config.json").write_text(json.dumps(values))
    save_file(build(kind).state_dict(), path / "open_clip_model.safetensors")
    return path


@functools.cache
def _root() -> Path:
    path = Path(tempfile.mkdtemp(prefix="layercache-tests-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def transform(kind: str) -> Any:
    """Return OpenCLIP's own evaluation transform, from PIL images to normalised tensors."""
    size = config(kind)["vision_cfg"]["image_size"]
    cfg: Mapping[str, Any] = {**TRANSFORM, **KINDS[kind][2], "size": size}
    return image_transform_v2(PreprocessCfg(**cfg), is_train=False)


def normalized(images: Tensor = IMAGES) -> Tensor:
    mean, std = (torch.tensor(TRANSFORM[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (images.float() / 255 - mean) / std


@functools.cache
def hidden_states(kind: str) -> dict[str, list[np.ndarray[Any, Any]]]:
    """Return tap -> every layer's hidden state (B, N, D) of IMAGES in float64.

    "block" is OpenCLIP's own `forward_intermediates`; the others are kept by hooks.
    """
    visual = build(kind).visual
    seen: dict[str, Tensor] = {}
    for i, block in enumerate(visual.transformer.resblocks):
        parts = {
            "norm1": block.ln_1,
            "attn": block.attn,
            "norm2": block.ln_2,
            "fc1": block.mlp.c_fc,
            "act": block.mlp.gelu,
            "mlp": block.mlp,
        }
        for tap, module in parts.items():
            module.register_forward_hook(_keep(seen, f"{tap}{i}"))
    with torch.no_grad():
        output = visual.forward_intermediates(
            normalized(), output_fmt="NLC", output_extra_tokens=True
        )
        pairs = (output["image_intermediates_prefix"], output["image_intermediates"])
        states = [torch.cat(pair, 1) for pair in zip(*pairs, strict=True)]
        taps: dict[str, list[Tensor]] = {"block": states}
        if kind != "coca":
            taps["block-norm"] = [visual.ln_post(x) for x in states]
            taps["norm2"] = [
                *(seen[f"norm2{i}"] for i in range(1, DEPTH)),
                taps["block-norm"][-1],
            ]
        for tap in ("norm1", "attn", "fc1", "act", "mlp"):
            taps[tap] = [seen[f"{tap}{i}"] for i in range(DEPTH)]
    return {tap: [x.double().numpy() for x in layers] for tap, layers in taps.items()}


def _keep(seen: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        seen[name] = (output[0] if isinstance(output, tuple) else output).clone()

    return hook


@functools.cache
def class_attention(kind: str) -> list[np.ndarray[Any, Any]]:
    """Return every block's attention of the class token, its mean over attention heads (B, N)."""
    weights = []
    blocks = build(kind).visual.transformer.resblocks
    for block, x in zip(blocks, hidden_states(kind)["norm1"], strict=True):
        inputs = torch.from_numpy(x).float()
        plain = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        plain.load_state_dict(
            {k: v for k, v in block.attn.state_dict().items() if k in plain.state_dict()}
        )
        with torch.no_grad():
            weights.append(plain(inputs, inputs, inputs)[1][:, 0].double().numpy())
    return weights
