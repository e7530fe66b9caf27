"""Every source of models, one line each at the end: small, with random weights.

To add a source, write a function that returns its `Source`, and a line in SOURCES.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm.data
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import transforms

from layercache.extraction.models import vit_nano
from layercache.extraction.models.encoder import Encoder, parse_place
from tests.extraction.models import (
    families,
    open_clip_models,
    own_modules,
    test_timm_address,
    transformers_models,
)
from tests.extraction.models.conformance.hooks import Place, hidden_states

TIMM_PLACES = {
    "norm1": Place("norm1"),
    "attn": Place("attn"),
    "norm2": Place("norm2"),
    "fc1": Place("mlp.fc1"),
    "act": Place("mlp.fc2", is_input=True),
    "mlp": Place("mlp"),
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One way to name a model, and the bare model to compare it with."""

    build: Callable[[], nn.Module]
    """The bare module with its weights, the same at every call."""
    save: Callable[[nn.Module, Path], tuple[str | Encoder, dict[str, Any]]]
    """Writes what a user would have into a folder; the model and options of `load_encoder`."""
    hidden_states: Callable[[Tensor], Mapping[str, list[np.ndarray[Any, Any]]]]
    """Normalised images -> tap -> every layer's hidden state (B, N, D), by plain hooks."""
    transform: Callable[[Image.Image], Tensor]
    """The source's own preprocessing: a picture to normalised (3, H, W)."""
    blocks: str
    """List of the blocks in the backbone's module."""
    prefix: int
    class_token: bool = True
    registers: int = 0
    size: int = 32
    """Side of the input in pixels."""
    unused: tuple[str, ...] = ()
    """Beginnings of names of tensors after the tokens: not part of the digest."""
    batch_first: bool = True
    needs_model: bool = False
    """`load_classifier` cannot find the model again and needs it as `model`."""


def vit_nano_source() -> Source:
    def build() -> nn.Module:
        module = vit_nano.create_vit_nano()
        state = load_file(vit_nano.weights_path())
        module.load_state_dict({key: value.float() for key, value in state.items()})
        return module.eval()

    def save(module: nn.Module, folder: Path) -> tuple[str, dict[str, Any]]:
        bundled = build().state_dict()
        if all(torch.equal(value, bundled[key]) for key, value in module.state_dict().items()):
            return "vit_nano", {}
        save_file(module.state_dict(), folder / "nano.safetensors")
        return "vit_nano", {"weights": folder / "nano.safetensors"}

    return Source(
        build=build,
        save=save,
        hidden_states=lambda images: timm_states(build(), images),
        transform=timm_transform(vit_nano.DATA_CONFIG),
        blocks="blocks",
        prefix=1,
        size=28,
        unused=("head.",),
    )


def timm_name(name: str) -> Source:
    """A timm name with a torch file as `weights`."""
    family = families.FAMILIES[name]

    def build() -> nn.Module:
        module = family.build()
        module.load_state_dict(families.random_state(name))
        return module.eval()

    def save(module: nn.Module, folder: Path) -> tuple[str, dict[str, Any]]:
        torch.save({"state_dict": module.state_dict()}, folder / "checkpoint.pt")
        return name, {"weights": folder / "checkpoint.pt"}

    return Source(
        build=build,
        save=save,
        hidden_states=lambda images: timm_states(build(), images),
        transform=timm_transform(families.pretrained_cfg(name, family)),
        blocks="blocks",
        prefix=family.prefix,
        class_token=family.class_token,
        registers=family.registers,
        unused=("head.",),
    )


def timm_folder(style: str) -> Source:
    """A folder in timm's hub layout."""

    def save(module: nn.Module, folder: Path) -> tuple[str, dict[str, Any]]:
        return test_timm_address.save(folder, style, module.state_dict()), {}

    _, args, prefix = test_timm_address.STYLES[style]
    return Source(
        build=partial(test_timm_address.build, style),
        save=save,
        hidden_states=lambda images: timm_states(test_timm_address.build(style), images),
        transform=timm_transform(test_timm_address.config(style)["pretrained_cfg"]),
        blocks="blocks",
        prefix=prefix,
        registers=args.get("reg_tokens", 0),
        size=28,
    )


def encoder_object(make: Callable[..., Encoder]) -> Source:
    """An Encoder, given as an object."""

    def save(module: nn.Module, folder: Path) -> tuple[Encoder, dict[str, Any]]:
        return make(module=module), {}

    return own_source(make, save=save, needs_model=True)


def encoder_file(function: str) -> Source:
    """A file with a function of `own_modules`, its weights in a checkpoint next to it."""

    def save(module: nn.Module, folder: Path) -> tuple[str, dict[str, Any]]:
        torch.save(module.state_dict(), folder / "weights.pt")
        (folder / "encoders.py").write_text(
            f"import torch\n\nfrom tests.extraction.models.own_modules import {function}\n\n\n"
            f"def mine():\n    encoder = {function}()\n"
            f"    state = torch.load({str(folder / 'weights.pt')!r}, weights_only=True)\n"
            "    encoder.module.load_state_dict(state)\n    return encoder\n"
        )
        return f"{folder}/encoders.py:mine", {}

    return own_source(getattr(own_modules, function), save=save)


def own_source(make: Callable[..., Encoder], *, save: Any, needs_model: bool = False) -> Source:
    described = make()
    places = {}
    for tap in TIMM_PLACES:
        if (text := getattr(described, tap)) is not None:
            path, index = parse_place(text, field=tap)
            places[tap] = Place(path, index=index)
    given = described.preprocessing
    size, crop_pct = 32, given.crop_pct or 1.0
    bicubic = transforms.InterpolationMode.BICUBIC
    assert given.mean is not None
    assert given.std is not None
    return Source(
        build=lambda: make().module.eval(),
        save=save,
        hidden_states=lambda images: hidden_states(
            make().module.eval(),
            images,
            blocks=described.blocks,
            places=places,
            norm=described.final_norm,
            block_output=described.block_output,
            batch_first=described.batch_first,
        ),
        transform=transforms.Compose(
            [
                transforms.Resize(int(size / crop_pct), bicubic),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize(given.mean, given.std),
            ]
        ),
        blocks=described.blocks,
        prefix=described.prefix_tokens,
        class_token=described.class_token is not None,
        registers=described.registers,
        batch_first=described.batch_first,
        needs_model=needs_model,
    )


def transformers_folder(key: str) -> Source:
    """A folder of transformers, with its image processor."""
    model = transformers_models.MODELS[key]

    def save(module: nn.Module, folder: Path) -> tuple[str, dict[str, Any]]:
        module.save_pretrained(folder)  # type: ignore[operator]
        transformers_models.processor(key).save_pretrained(folder)
        return f"hf:{folder}", {}

    def transform(picture: Image.Image) -> Tensor:
        values = transformers_models.processor(key)(picture, return_tensors="np")
        return torch.from_numpy(values["pixel_values"][0])

    return Source(
        build=partial(transformers_models.build, key),
        save=save,
        hidden_states=lambda images: transformers_models.hidden_states(key),
        transform=transform,
        blocks=model.blocks,
        prefix=model.prefix,
        class_token=model.class_token,
        registers=model.registers,
        unused=UNUSED_OF_TRANSFORMERS,
    )


UNUSED_OF_TRANSFORMERS = (
    "logit_bias",
    *("classifier.", "pooler.", "vit.pooler.", "text_model.", "text_projection.", "logit_scale"),
    *(
        "vision_model.head.",
        "visual_projection.",
        "decoder.",
        "embeddings.mask_token",
        "mask_token",
    ),
)


def open_clip_folder(kind: str) -> Source:
    """A folder of OpenCLIP."""

    def save(module: nn.Module, folder: Path) -> tuple[str, dict[str, Any]]:
        file = open_clip_models.folder(kind) / "open_clip_config.json"
        (folder / file.name).write_text(json.dumps(json.loads(file.read_text())))
        save_file(module.state_dict(), folder / "open_clip_model.safetensors")
        return f"open_clip:local-dir:{folder}", {}

    def transform(picture: Image.Image) -> Tensor:
        pixels: Tensor = open_clip_models.transform(kind)(picture)
        return pixels

    return Source(
        build=partial(open_clip_models.build, kind),
        save=save,
        hidden_states=lambda images: open_clip_models.hidden_states(kind),
        transform=transform,
        blocks="transformer.resblocks",
        prefix=1,
        unused=(
            *("text_projection", "logit_scale", "token_embedding", "positional_embedding"),
            *("transformer.", "ln_final", "visual.proj", "attn_mask"),
        ),
    )


def timm_states(module: Any, images: Tensor) -> Mapping[str, list[np.ndarray[Any, Any]]]:
    """Return the hidden states of a ViT of timm whose final norm is `norm`."""
    return hidden_states(
        module,
        images,
        blocks="blocks",
        places={tap: place for tap, place in TIMM_PLACES.items() if place.exists(module.blocks[0])},
        norm="norm",
        forward="forward_features",
    )


def timm_transform(config: Mapping[str, Any]) -> Callable[[Image.Image], Tensor]:
    resolved = timm.data.resolve_data_config(None, pretrained_cfg=dict(config))
    return timm.data.create_transform(**resolved, is_training=False)  # type: ignore[no-any-return]


SOURCES: Mapping[str, Callable[[], Source]] = {
    "short_name": vit_nano_source,
    "timm_name": partial(timm_name, "tiny_vit"),
    "timm_registers": partial(timm_name, "tiny_dinov3"),
    "timm_folder": partial(timm_folder, "uni2-h"),
    "encoder": partial(encoder_object, own_modules.torchvision_vit),
    "encoder_tuples": partial(encoder_object, partial(own_modules.plain, returns_tuple=True)),
    "encoder_tokens_first": partial(
        encoder_object, partial(own_modules.torch_encoder, batch_first=False)
    ),
    "encoder_file": partial(encoder_file, "plain"),
    "transformers_vit": partial(transformers_folder, "vit"),
    "transformers_clip": partial(transformers_folder, "clip"),
    "transformers_registers": partial(transformers_folder, "dinov2_registers"),
    "transformers_siglip": partial(transformers_folder, "siglip"),
    "open_clip": partial(open_clip_folder, "plain"),
    "open_clip_quickgelu": partial(open_clip_folder, "quickgelu"),
}
"""Name of a source -> the source."""
