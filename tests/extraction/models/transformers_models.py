"""Small models of transformers with random weights, as folders that `save_pretrained` wrote."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from layercache.extraction.models.backbone import Backbone
from layercache.extraction.models.loading import load_encoder

IMAGES = torch.randint(
    0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)
SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
}
DEPTH = SMALL["num_hidden_layers"]
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}
"""Of tokens in float32 against `hidden_states`."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """One kind of model, its geometry taken from the paper."""

    saved_class: str
    """Class whose object is saved."""
    options: Mapping[str, Any] = field(default_factory=dict)
    vision_options: Mapping[str, Any] | None = None
    """Options of the vision configuration, if it is nested."""
    processor: str
    size: Mapping[str, int] = field(default_factory=lambda: {"height": 32, "width": 32})
    crop_size: Mapping[str, int] | None = None
    tower: str = ""
    """Path of the vision tower in the saved object."""
    blocks: str
    norm: str
    prefix: int = 1
    class_token: bool = True
    registers: int = 0


_TEXT = {
    "hidden_size": 24,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 20,
}
MODELS = {
    "vit": Model(
        saved_class="ViTForImageClassification",
        options=SMALL,
        processor="ViTImageProcessor",
        tower="vit",
        blocks="layers",
        norm="layernorm",
    ),
    "deit": Model(
        saved_class="DeiTModel",
        options=SMALL,
        processor="DeiTImageProcessor",
        size={"height": 37, "width": 37},
        crop_size={"height": 32, "width": 32},
        blocks="layers",
        norm="layernorm",
        prefix=2,
    ),
    "dinov2": Model(
        saved_class="Dinov2Model",
        options={**SMALL, "mlp_ratio": 2, "layerscale_value": 0.5},
        processor="BitImageProcessor",
        size={"shortest_edge": 37},
        crop_size={"height": 32, "width": 32},
        blocks="encoder.layer",
        norm="layernorm",
    ),
    "dinov2_giant": Model(
        saved_class="Dinov2Model",
        options={**SMALL, "mlp_ratio": 2, "use_swiglu_ffn": True},
        processor="BitImageProcessor",
        blocks="encoder.layer",
        norm="layernorm",
    ),
    "dinov2_registers": Model(
        saved_class="Dinov2WithRegistersModel",
        options={**SMALL, "mlp_ratio": 2, "num_register_tokens": 4},
        processor="BitImageProcessor",
        blocks="encoder.layer",
        norm="layernorm",
        prefix=5,
        registers=4,
    ),
    "dinov3": Model(
        saved_class="DINOv3ViTModel",
        options={**SMALL, "num_register_tokens": 4},
        processor="DINOv3ViTImageProcessor",
        blocks="model.layer",
        norm="norm",
        prefix=5,
        registers=4,
    ),
    "dinov3_gated": Model(
        saved_class="DINOv3ViTModel",
        options={
            **SMALL,
            "num_register_tokens": 2,
            "use_gated_mlp": True,
            "hidden_act": "silu",
        },
        processor="DINOv3ViTImageProcessor",
        blocks="model.layer",
        norm="norm",
        prefix=3,
        registers=2,
    ),
    "clip": Model(
        saved_class="CLIPModel",
        options={"text_config": _TEXT, "projection_dim": 16},
        vision_options={**SMALL, "hidden_act": "quick_gelu"},
        processor="CLIPImageProcessor",
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        tower="vision_model",
        blocks="encoder.layers",
        norm="post_layernorm",
    ),
    "clip_vision": Model(
        saved_class="CLIPVisionModelWithProjection",
        options={**SMALL, "projection_dim": 16},
        processor="CLIPImageProcessor",
        crop_size={"height": 32, "width": 32},
        tower="vision_model",
        blocks="encoder.layers",
        norm="post_layernorm",
    ),
    "siglip": Model(
        saved_class="SiglipModel",
        options={"text_config": _TEXT},
        vision_options=SMALL,
        processor="SiglipImageProcessor",
        tower="vision_model",
        blocks="encoder.layers",
        norm="post_layernorm",
        prefix=0,
        class_token=False,
    ),
    "mae": Model(
        saved_class="ViTMAEForPreTraining",
        options={
            **SMALL,
            "decoder_hidden_size": 16,
            "decoder_num_attention_heads": 2,
            "decoder_num_hidden_layers": 1,
            "decoder_intermediate_size": 16,
        },
        processor="ViTImageProcessor",
        tower="vit",
        blocks="layers",
        norm="layernorm",
    ),
    "beit": Model(
        saved_class="BeitForImageClassification",
        options={**SMALL, "use_relative_position_bias": True, "layer_scale_init_value": 0.5},
        processor="BeitImageProcessor",
        tower="beit",
        blocks="layers",
        norm="pooler.layernorm",
    ),
    "beit_shared": Model(
        saved_class="BeitModel",
        options={
            **SMALL,
            "use_shared_relative_position_bias": True,
            "use_absolute_position_embeddings": True,
            "use_mean_pooling": False,
        },
        processor="BeitImageProcessor",
        blocks="layers",
        norm="layernorm",
    ),
    "beit_pretrained": Model(
        saved_class="BeitForMaskedImageModeling",
        options={**SMALL, "use_mask_token": True, "use_relative_position_bias": True},
        processor="BeitImageProcessor",
        tower="beit",
        blocks="layers",
        norm="__outer__.layernorm",
    ),
    "data2vec": Model(
        saved_class="Data2VecVisionForImageClassification",
        options={
            **SMALL,
            "use_relative_position_bias": True,
            "use_shared_relative_position_bias": True,
        },
        processor="BeitImageProcessor",
        tower="data2vec_vision",
        blocks="encoder.layer",
        norm="pooler.layernorm",
    ),
    "vit_msn": Model(
        saved_class="ViTMSNModel",
        options=SMALL,
        processor="ViTImageProcessor",
        blocks="layers",
        norm="layernorm",
    ),
}


def build(key: str) -> Any:
    """Return the model with fixed random weights, all far from their initial zeros and ones."""
    model = MODELS[key]
    cls = getattr(transformers, model.saved_class)
    options = dict(model.options)
    if model.vision_options is not None:
        options["vision_config"] = dict(model.vision_options)
    module = cls(cls.config_class(**options, attn_implementation="eager"))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in module.named_parameters():
        offset = float("norm" in name and name.endswith("weight"))
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.2 * noise + offset
    return module.eval()


def processor(key: str) -> Any:
    """Return the model's image processor, with transformers' PIL backend where there is one."""
    model = MODELS[key]
    pil = getattr(transformers, f"{model.processor}Pil", None)
    cls = pil or getattr(transformers, model.processor)
    options: dict[str, Any] = {"size": dict(model.size), "image_mean": MEAN, "image_std": STD}
    if model.crop_size is not None:
        options |= {"crop_size": dict(model.crop_size), "do_center_crop": True}
    else:
        options["do_center_crop"] = False
    return cls(**options)


@functools.cache
def folder(key: str) -> Path:
    """Return a folder with the model and its image processor, written once."""
    path = _root() / key
    build(key).save_pretrained(path)
    processor(key).save_pretrained(path)
    return path


@functools.cache
def _root() -> Path:
    path = Path(tempfile.mkdtemp(prefix="layercache-tests-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def load(key: str, **options: Any) -> Backbone:
    """Return the encoder of a saved model, with tokens in float32 unless the options say else."""
    return load_encoder(f"hf:{folder(key)}", **{"storage_dtype": "float32", **options})


def copy_of(key: str, tmp_path: Path) -> Path:
    """Copy the folder of a saved model, to be changed."""
    return Path(shutil.copytree(folder(key), tmp_path / key))


def edit(path: Path, **values: Any) -> None:
    """Replace values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def tower_of(key: str, module: Any) -> Any:
    return module.get_submodule(MODELS[key].tower) if MODELS[key].tower else module


def norm_of(key: str, module: Any) -> nn.Module:
    path = MODELS[key].norm
    outer = path.removeprefix("__outer__.")
    owner = tower_of(key, module) if outer == path else module
    return owner.get_submodule(outer)  # type: ignore[no-any-return]


def normalized(images: Tensor = IMAGES) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std


@functools.cache
def hidden_states(key: str) -> dict[str, list[np.ndarray[Any, Any]]]:
    """Return tap -> every layer's hidden state (B, N, D) of IMAGES in float64.

    "block" is transformers' own `hidden_states`; the others are kept by hooks.
    """
    module = build(key)
    tower, norm = tower_of(key, module), norm_of(key, module)
    blocks = tower.get_submodule(MODELS[key].blocks)
    seen: dict[str, Tensor] = {}
    for i, block in enumerate(blocks):
        for tap, (part, is_input) in _parts(block).items():
            part.register_forward_hook(_keep(seen, f"{tap}{i}", is_input=is_input))
    with torch.no_grad():
        output = _run(key, tower, output_hidden_states=True)
        states = list(output.hidden_states[1:])
        taps = {
            "norm2": [*(seen[f"norm2{i}"] for i in range(1, DEPTH)), norm(states[-1])],
            "block": states,
            "block-norm": [norm(x) for x in states],
        }
        for tap in ("norm1", "attn", "fc1", "act", "mlp"):
            if f"{tap}0" in seen:
                taps[tap] = [seen[f"{tap}{i}"] for i in range(DEPTH)]
    return {tap: [x.double().numpy() for x in layers] for tap, layers in taps.items()}


def _run(key: str, tower: Any, **options: Any) -> Any:
    """Run a tower on IMAGES; MAE without masking, its patches in order."""
    if key == "mae":
        tower.config.mask_ratio = 0.0
        options["noise"] = torch.arange(16.0).expand(len(IMAGES), -1)
    return tower(normalized(), **options)


def _keep(seen: dict[str, Tensor], name: str, *, is_input: bool) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        value = args[0] if is_input else output
        seen[name] = (value[0] if isinstance(value, tuple) else value).clone()

    return hook


def _parts(block: Any) -> dict[str, tuple[nn.Module, bool]]:
    """Return tap -> module of a block, and whether its input is meant."""
    attribute = next(name for name in ("attention", "self_attn") if hasattr(block, name))
    norms = [m for name, m in block.named_children() if isinstance(m, nn.LayerNorm)]
    parts = {
        "norm1": (norms[0], False),
        "attn": (getattr(block, attribute), False),
        "norm2": (norms[1], False),
    }
    if hasattr(block, "intermediate"):
        inner = {"fc1": block.intermediate.dense, "mlp": block.output.dense}
        return (
            parts | {t: (m, False) for t, m in inner.items()} | {"act": (block.output.dense, True)}
        )
    parts["mlp"] = (block.mlp, False)
    last = next(getattr(block.mlp, n) for n in ("fc2", "down_proj") if hasattr(block.mlp, n))
    parts["act"] = (last, True)
    if not hasattr(block.mlp, "gate_proj"):
        first = next(getattr(block.mlp, n) for n in ("fc1", "up_proj") if hasattr(block.mlp, n))
        parts["fc1"] = (first, False)
    return parts


@functools.cache
def class_attention(key: str) -> list[np.ndarray[Any, Any]]:
    """Return every block's attention of the class token, its mean over attention heads (B, N)."""
    tower = tower_of(key, build(key))
    with torch.no_grad():
        output = _run(key, tower, output_attentions=True)
    return [x.double().numpy()[:, :, 0].mean(1) for x in output.attentions]


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Return a random RGB picture with edges, which resampling filters treat differently."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 3] = rng.integers(0, 256, 3, dtype=np.uint8)
    return Image.fromarray(pixels)
