"""Custom ViTs of the user: an `Encoder`, from Python or from a function in a file."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from layercache.errors import BackboneError, OptionError
from layercache.extraction.models.check_forward import check_forward
from layercache.extraction.models.encoder import INNER_PLACES, Encoder, parse_place
from layercache.extraction.models.module_paths import Path, Paths, find_blocks, part
from layercache.extraction.models.preprocessing.data_config import apply_options
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.preprocessing.transform import Preprocessing
from layercache.extraction.models.registry import EvalTransform, ModelInfo
from layercache.extraction.models.sources.custom_file import load_encoder
from layercache.extraction.models.vit import Check, LoadedModel, LoadRequest, ViT
from layercache.extraction.models.weights.checkpoint import digest_weights

DATA_CONFIG = {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic"}
"""Preprocessing where an Encoder leaves it open."""


def load(model: str | Encoder, request: LoadRequest, *, check: Check) -> LoadedModel:
    """Load an Encoder, with the weights that it has; see `sources.load_model`.

    Args:
        model: The Encoder, or the FILE.py:FUNCTION that returns one.
        request: What to load.
        check: Called with its description.

    Raises:
        BackboneError: A part is missing, or the forward does not match the Encoder.
        OptionError: An option is given that an Encoder does not have.
    """
    encoder = load_encoder(model) if isinstance(model, str) else model
    name = model if isinstance(model, str) else model.name
    if request.weights is not None:
        raise OptionError(
            f"weights: {name} has its own: load them into the module before it becomes an Encoder"
        )
    if request.projected:
        raise OptionError(f"projected: {name} has no known projection: leave it out")
    preprocessing = _preprocessing(encoder, request.preprocessing)
    module = _copy(encoder.module, name=name)
    weights_digest = digest_weights(_tensors(module))
    module = module.cpu().float().eval().requires_grad_(False)
    vit = _describe(replace(encoder, module=module), name=name, tap=request.tap)
    vit = check_forward(vit, preprocessing.input_size, name=name)
    check(vit)
    return LoadedModel(vit=vit, weights_digest=weights_digest, preprocessing=preprocessing)


def describe(model: str | Encoder, *, offline: bool = False) -> ModelInfo:
    """Return the figures of an Encoder; see `sources.describe_model`.

    Args:
        model: The Encoder, or the FILE.py:FUNCTION that returns one.
        offline: Has no effect: what the function downloads is its own.
    """
    encoder = load_encoder(model) if isinstance(model, str) else model
    loaded = load(encoder, LoadRequest(), check=lambda vit: None)
    vit, preprocessing = loaded.vit, loaded.preprocessing
    return vit.info(
        name=model if isinstance(model, str) else encoder.name,
        params_m=sum(p.numel() for p in encoder.module.parameters()) / 1e6,
        input_size=preprocessing.input_size[0],
        patch_size=preprocessing.input_size[0] // vit.grid_size[0],
        note=f"those of the module, SHA-256 {loaded.weights_digest[:12]}",
        transform=EvalTransform(
            crop_pct=encoder.preprocessing.crop_pct or DATA_CONFIG["crop_pct"],  # type: ignore[arg-type]
            interpolation=preprocessing.interpolation,
            crop_mode=preprocessing.crop_mode,
            source="the Encoder",
        ),
    )


def _describe(encoder: Encoder, *, name: str, tap: str) -> ViT:
    """Return the description that the forward is to confirm; grid and widths are still unknown."""
    module: Any = encoder.module
    forward = getattr(module, encoder.forward, None)
    if not callable(forward):
        raise BackboneError(
            f"{name}: {type(module).__name__} has no method {encoder.forward!r}: name another as "
            "Encoder(forward=...)"
        )
    if part(module, encoder.blocks) is None:
        raise _no_part(name, f"blocks={encoder.blocks!r}", module)
    blocks = find_blocks(module, encoder.blocks, _paths(encoder), width=0, inner_width=0)
    for place in INNER_PLACES:
        missing = [n for n, block in enumerate(blocks) if place not in block.places]
        if getattr(encoder, place) is not None and missing:
            raise _no_part(
                name,
                f"{place}={getattr(encoder, place)!r}",
                blocks[missing[0]].output.module,
                where=f" in {encoder.blocks}[{missing[0]}]",
            )
    reasons = {
        place: f"needs Encoder({place}=...), which is not given"
        for place in INNER_PLACES
        if getattr(encoder, place) is None
    }
    norm = None
    if encoder.final_norm is not None:
        norm = part(module, encoder.final_norm)
        if not isinstance(norm, nn.Module):
            raise _no_part(name, f"final_norm={encoder.final_norm!r}", module)
    return ViT(
        module=module,
        forward=forward,
        architecture=encoder.architecture(tap),
        blocks=tuple(replace(block, reasons=reasons) for block in blocks),
        blocks_path=encoder.blocks,
        is_own=True,
        width=0,
        final_norm=norm,
        norm_in_forward=False,  # it may normalise the class token alone
        num_prefix_tokens=encoder.prefix_tokens,
        class_token=encoder.class_token,
        num_registers=encoder.registers,
        grid_size=(0, 0),
        batch_first=encoder.batch_first,
    )


def _paths(encoder: Encoder) -> Paths:
    paths: dict[str, Any] = {"output_index": encoder.block_output}
    for place in INNER_PLACES:
        text = getattr(encoder, place)
        if text is not None:
            path, index = parse_place(text, field=place)
            paths[place] = Path(path, index=index)
    return Paths(**paths)


def _no_part(name: str, option: str, module: nn.Module, *, where: str = "") -> BackboneError:
    names = ", ".join(child for child, _ in module.named_children()) or "none"
    return BackboneError(
        f"{name}: {option}: there is no such module{where}; parts of its "
        f"{type(module).__name__}: {names}"
    )


def _preprocessing(
    encoder: Encoder, requested: Preprocessing | PreprocessingOptions | None
) -> Preprocessing:
    return apply_options(encoder.preprocessing.replace_in(DATA_CONFIG), requested)


def _copy(module: nn.Module, *, name: str) -> nn.Module:
    """Return a copy of a module: hooks and precision of an extraction stay out of the original."""
    try:
        return copy.deepcopy(module)
    except Exception as e:  # of the user's own modules
        raise BackboneError(
            f"{name}: {type(module).__name__} cannot be copied ({type(e).__name__}: {e}): write a "
            "function that returns a new Encoder, and name it FILE.py:FUNCTION"
        ) from e


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
