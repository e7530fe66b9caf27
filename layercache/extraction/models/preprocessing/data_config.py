"""The preprocessing of a timm model: its makers', timm's, the paper's, and the user's options."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from timm.data import resolve_data_config

from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.preprocessing.transform import Preprocessing
from layercache.extraction.models.registry import MAKERS_TRANSFORMS, EvalTransform, ModelInfo

PAPER_TRANSFORM = MappingProxyType(
    {
        "input_size": (3, 224, 224),
        "crop_pct": 224 / 256,
        "interpolation": "bilinear",
        "crop_mode": "center",
    }
)
"""Changes that the paper's extractor makes to the data config of DINOv2 and MAE."""


def resolve_preprocessing(
    config: dict[str, Any],
    info: ModelInfo | None,
    requested: Preprocessing | PreprocessingOptions | None,
    *,
    paper_compat: bool = False,
) -> tuple[Preprocessing, tuple[str, ...]]:
    """Return the preprocessing of a model, and notes for the user.

    Args:
        config: `pretrained_cfg` of the timm module.
        info: Registry entry of a short name, which has its makers' transform; None for a timm
            name, which has that of timm's metadata.
        requested: Options that replace parts of it, or a preprocessing to use instead.
        paper_compat: Use the paper's transform for DINOv2 and MAE.
    """
    if isinstance(requested, Preprocessing):
        return requested, ()
    resolved = _timm_data_config(config)
    notes = _transform_notes(config, is_short_name=info is not None)
    if info is not None and info.transform is not None:
        resolved["input_size"] = (3, info.input_size, info.input_size)
        resolved["crop_pct"] = info.transform.crop_pct
        resolved["interpolation"] = info.transform.interpolation
    if paper_compat and _paper_differs(config):
        resolved |= PAPER_TRANSFORM
        notes = ()
    if requested is not None and requested.crop_pct is not None:
        notes = ()
    return apply_options(resolved, requested), notes


def apply_options(
    config: dict[str, Any], requested: Preprocessing | PreprocessingOptions | None
) -> Preprocessing:
    """Return the preprocessing of a data config of timm, with the user's options.

    Args:
        config: "input_size" (3, H, W), "crop_pct", "crop_mode", "interpolation", "mean", "std".
        requested: Options that replace parts of it, or a preprocessing to use instead.
    """
    if isinstance(requested, Preprocessing):
        return requested
    options = requested or PreprocessingOptions()
    return Preprocessing.from_timm(options.replace_in(config))


def timm_transform(config: dict[str, Any]) -> EvalTransform:
    """Return the transform of timm's metadata, with a remark if the makers' is known to differ."""
    resolved, makers = _timm_data_config(config), _other_transform(config)
    remark = f"; its makers': crop_pct {makers.crop_pct:g} ({makers.source})" if makers else ""
    return EvalTransform(
        crop_pct=resolved["crop_pct"],
        interpolation=resolved["interpolation"],
        crop_mode=resolved["crop_mode"],
        source=f"timm's metadata{remark}",
    )


def _timm_data_config(config: dict[str, Any]) -> dict[str, Any]:
    return resolve_data_config(None, pretrained_cfg=config)  # type: ignore[no-any-return]


def _transform_notes(config: dict[str, Any], *, is_short_name: bool) -> tuple[str, ...]:
    makers = _other_transform(config)
    if makers is None:
        return ()
    published = f"crop_pct {makers.crop_pct:g} of its makers ({makers.source})"
    in_timm = f"crop_pct {_timm_data_config(config)['crop_pct']:g} of timm's metadata"
    used, other = (published, in_timm) if is_short_name else (in_timm, published)
    return (f"preprocessed with {used}, not {other}",)


def _other_transform(config: dict[str, Any]) -> EvalTransform | None:
    """Return the makers' transform if it is known to differ from timm's metadata."""
    makers = MAKERS_TRANSFORMS.get(config.get("tag") or "")
    if makers is None or makers.crop_pct == _timm_data_config(config)["crop_pct"]:
        return None
    return makers


def _paper_differs(config: dict[str, Any]) -> bool:
    """Return whether the paper's extractor preprocessed the model its own way: DINOv2 and MAE."""
    return "dinov2" in config["architecture"] or config.get("tag") == "mae"
