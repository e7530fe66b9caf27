"""Small random ViTs of every family, registered with timm so that load_encoder finds them."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from timm.layers import GluMlp, QuickGELU, SwiGLU, SwiGLUPacked
from timm.models import register_model
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from layercache.extraction.models.backbone import Backbone
from layercache.extraction.models.loading import load_encoder

IMAGES = torch.randint(
    0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2}
DINOV3 = {
    "class_token": True,
    "num_reg_tokens": 4,
    "use_abs_pos_emb": False,
    "use_rot_pos_emb": True,
    "rope_type": "dinov3",
    "init_values": 1e-2,
    "qkv_bias": False,
    "use_fc_norm": False,
    "global_pool": "avg",
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family's geometry, taken from its paper and not from timm."""

    build: Callable[[], nn.Module]
    prefix: int
    class_token: bool
    registers: int = 0
    final_norm: str = "norm"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)


FAMILIES = {
    "tiny_vit": Family(build=partial(VisionTransformer, **SMALL), prefix=1, class_token=True),
    "tiny_deit_distilled": Family(
        build=partial(VisionTransformerDistilled, **SMALL), prefix=2, class_token=True
    ),
    "tiny_dinov2": Family(
        build=partial(VisionTransformer, init_values=0.5, num_classes=0, **SMALL),
        prefix=1,
        class_token=True,
    ),
    "tiny_dinov2_reg4": Family(
        build=partial(
            VisionTransformer,
            init_values=0.5,
            reg_tokens=4,
            no_embed_class=True,
            num_classes=0,
            **SMALL,
        ),
        prefix=5,
        class_token=True,
        registers=4,
    ),
    "tiny_uni2": Family(
        build=partial(
            VisionTransformer,
            mlp_layer=SwiGLUPacked,
            act_layer=nn.SiLU,
            reg_tokens=2,
            no_embed_class=True,
            init_values=0.5,
            num_classes=0,
            **SMALL,
        ),
        prefix=3,
        class_token=True,
        registers=2,
    ),
    "tiny_dinov3": Family(
        build=partial(Eva, **SMALL, **DINOV3), prefix=5, class_token=True, registers=4
    ),
    "tiny_rope": Family(
        build=partial(
            Eva,
            attn_type="rope",
            qkv_fused=False,
            qk_norm=True,
            num_kv_heads=1,
            rope_rotate_half=True,
            num_reg_tokens=2,
            use_abs_pos_emb=False,
            use_rot_pos_emb=True,
            use_fc_norm=False,
            **SMALL,
        ),
        prefix=3,
        class_token=True,
        registers=2,
    ),
    "tiny_clip": Family(
        build=partial(
            VisionTransformer, pre_norm=True, act_layer=QuickGELU, num_classes=16, **SMALL
        ),
        prefix=1,
        class_token=True,
    ),
    "tiny_siglip": Family(
        build=partial(
            VisionTransformer, class_token=False, global_pool="map", num_classes=0, **SMALL
        ),
        prefix=0,
        class_token=False,
    ),
    "tiny_mae": Family(
        build=partial(VisionTransformer, num_classes=0, **SMALL), prefix=1, class_token=True
    ),
    "tiny_mae_finetuned": Family(
        build=partial(VisionTransformer, global_pool="avg", **SMALL),
        prefix=1,
        class_token=True,
        final_norm="fc_norm",
    ),
    "tiny_eva": Family(
        build=partial(Eva, qkv_fused=False, **SMALL),
        prefix=1,
        class_token=True,
        final_norm="fc_norm",
    ),
    "tiny_eva02": Family(
        build=partial(
            Eva,
            qkv_fused=False,
            swiglu_mlp=True,
            scale_mlp=True,
            scale_attn_inner=True,
            use_rot_pos_emb=True,
            ref_feat_shape=(4, 4),
            **SMALL,
        ),
        prefix=1,
        class_token=True,
        final_norm="fc_norm",
    ),
    "tiny_beit": Family(
        build=partial(Beit, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1, **SMALL),
        prefix=1,
        class_token=True,
        final_norm="fc_norm",
    ),
    "tiny_registers_only": Family(
        build=partial(
            VisionTransformer, class_token=False, reg_tokens=3, global_pool="avg", **SMALL
        ),
        prefix=3,
        class_token=False,
        registers=3,
        final_norm="fc_norm",
    ),
}


def pretrained_cfg(name: str, family: Family) -> dict[str, Any]:
    return {
        "architecture": name,
        "input_size": (3, 32, 32),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": family.mean,
        "std": family.std,
    }


def register(name: str, family: Family) -> None:
    """Register a timm entry point of this name."""

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        module: Any = family.build()
        module.pretrained_cfg = module.default_cfg = pretrained_cfg(name, family)
        return module  # type: ignore[no-any-return]

    entry.__name__ = name
    entry.__module__ = __name__
    register_model(entry)


for _name, _family in FAMILIES.items():
    register(_name, _family)


def random_state(name: str) -> dict[str, torch.Tensor]:
    """Return fixed random weights, every parameter far from its initial zeros and ones."""
    generator = torch.Generator().manual_seed(7)
    state = FAMILIES[name].build().state_dict()
    for key, value in state.items():
        if value.is_floating_point() and "periods" not in key:
            noise = torch.randn(value.shape, generator=generator)
            state[key] = 0.2 * noise + (
                1 if key.endswith(("norm1.weight", "norm2.weight", "norm.weight", "gamma")) else 0
            )
    return state


@functools.cache
def checkpoint(name: str) -> Path:
    """Return the path of a torch file with `random_state`, written once."""
    path = _folder() / f"{name}.pt"
    torch.save(random_state(name), path)
    return path


def load_saved(state: Any, path: Path, name: str = "tiny_vit", **options: Any) -> Backbone:
    """Save a state dict or checkpoint to a file, and load the encoder with it."""
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return load_encoder(name, weights=path, **options)


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="layercache-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def hidden_states(name: str) -> dict[str, list[np.ndarray[Any, Any]]]:
    """Return tap -> every layer's hidden state (B, N, D) of IMAGES in float64, by hooks on timm."""
    family = FAMILIES[name]
    module = _with_weights(name)
    seen: dict[str, torch.Tensor] = {}

    def keep(key: str, part: nn.Module) -> None:
        part.register_forward_hook(lambda m, args, out: seen.update({key: out.detach().clone()}))

    for i, block in enumerate(module.blocks):
        keep(f"block{i}", block)
        for part in ("norm1", "attn", "norm2", "mlp"):
            keep(f"{part}{i}", getattr(block, part))
        for part in ("fc1", "fc1_g", "fc1_x", "act"):
            if hasattr(block.mlp, part):
                keep(f"{part}{i}", getattr(block.mlp, part))
    norm = getattr(module, family.final_norm)
    depth = len(module.blocks)
    with torch.no_grad():
        module.forward_features(_normalized(family))
        taps = {
            "norm2": [
                *(seen[f"norm2{i}"] for i in range(1, depth)),
                norm(seen[f"block{depth - 1}"]),
            ],
            "block": [seen[f"block{i}"] for i in range(depth)],
            "block-norm": [norm(seen[f"block{i}"]) for i in range(depth)],
            "act": [_inner_activation(block.mlp, seen, i) for i, block in enumerate(module.blocks)],
        }
        for tap in ("norm1", "attn", "fc1", "mlp"):
            if f"{tap}0" in seen:
                taps[tap] = [seen[f"{tap}{i}"] for i in range(depth)]
    return {tap: [x.double().numpy() for x in layers] for tap, layers in taps.items()}


@functools.cache
def class_attention(name: str) -> list[np.ndarray[Any, Any]]:
    """Return every block's attention of the class token, its mean over attention heads (B, N).

    In float64, from timm's plain attention, which multiplies by the softmax itself.
    """
    module, seen = _with_weights(name), []
    for block in module.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda m, args, out: seen.append(out.clone()))
    with torch.no_grad():
        module.forward_features(_normalized(FAMILIES[name]))
    return [x.double().numpy()[:, :, 0].mean(1) for x in seen]


def _with_weights(name: str) -> Any:
    module = FAMILIES[name].build()
    module.load_state_dict(torch.load(checkpoint(name), weights_only=True))
    return module.eval()


def _normalized(family: Family) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (family.mean, family.std))
    return (IMAGES.float() / 255 - mean) / std


def _inner_activation(mlp: nn.Module, seen: dict[str, torch.Tensor], i: int) -> torch.Tensor:
    if isinstance(mlp, SwiGLU):
        return nn.functional.silu(seen[f"fc1_g{i}"]) * seen[f"fc1_x{i}"]
    if isinstance(mlp, GluMlp):
        gate, value = seen[f"fc1{i}"].chunk(2, -1)
        return nn.functional.silu(gate) * value
    return seen[f"act{i}"]
