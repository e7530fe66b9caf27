"""A ViT-S/16 with random weights from every source of models, as a user would have it."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import safetensors.torch
import timm
import torch
import torchvision
import transformers

from layercache.extraction.models.encoder import Encoder
from layercache.extraction.models.preprocessing.options import PreprocessingOptions

WIDTH, DEPTH, HEADS, PATCH, SIDE = 384, 12, 6, 16, 224
MEAN = STD = (0.5, 0.5, 0.5)


def make_sources(folder: Path) -> dict[str, str | Encoder]:
    """Write the models into a folder; return name -> what `extract` takes as model."""
    torch.manual_seed(0)
    return {
        "timm": _timm(folder / "timm"),
        "transformers": _transformers(folder / "transformers"),
        "open_clip": _open_clip(folder / "open_clip"),
        "encoder": _encoder(),
    }


def _timm(folder: Path) -> str:
    module = timm.create_model("vit_small_patch16_224", num_classes=0)
    folder.mkdir()
    config = {
        "architecture": "vit_small_patch16_224",
        "num_classes": 0,
        "pretrained_cfg": {"input_size": [3, SIDE, SIDE], "mean": MEAN, "std": STD},
    }
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(module.state_dict(), folder / "model.safetensors")
    return f"local-dir:{folder}"


def _transformers(folder: Path) -> str:
    config = transformers.ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        image_size=SIDE,
        patch_size=PATCH,
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    transformers.ViTImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return f"hf:{folder}"


def _open_clip(folder: Path) -> str:
    vision = {
        "image_size": SIDE,
        "layers": DEPTH,
        "width": WIDTH,
        "head_width": WIDTH // HEADS,
        "patch_size": PATCH,
    }
    text = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
    model = {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text}
    preprocessing = {
        "mean": MEAN,
        "std": STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    folder.mkdir()
    config = {"model_cfg": model, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = open_clip.model.CLIP(**model).state_dict()
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    return f"open_clip:local-dir:{folder}"


def _encoder() -> Encoder:
    module = torchvision.models.VisionTransformer(
        image_size=SIDE,
        patch_size=PATCH,
        num_layers=DEPTH,
        num_heads=HEADS,
        hidden_dim=WIDTH,
        mlp_dim=4 * WIDTH,
    )
    return Encoder(
        module,
        name="encoder",
        blocks="encoder.layers",
        final_norm="encoder.ln",
        norm2="ln_2",
        preprocessing=PreprocessingOptions(input_size=SIDE, mean=MEAN, std=STD),
    )
