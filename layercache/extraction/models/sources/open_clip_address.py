"""Models of OpenCLIP by name: "open_clip:NAME/TAG", "open_clip:NAME", or a schema of OpenCLIP.

The schemas are "open_clip:hf-hub:ORG/NAME" and "open_clip:local-dir:PATH": a repository or folder
with open_clip_config.json and a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layercache.errors import BackboneError, UnknownNameError
from layercache.extraction.models.weights.download import hub_file

CONFIG_FILE = "open_clip_config.json"
CHECKPOINT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of a checkpoint on the hub, the preferred one first."""
FOLDER_FILES = (*CHECKPOINT_FILES, "model.safetensors", "pytorch_model.bin")
"""Names of a checkpoint in a folder."""
LAYOUT = "a model of OpenCLIP, with open_clip_config.json and open_clip_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class OpenClipModel:
    """A model's configuration, and the way to its checkpoint."""

    config: Mapping[str, Any]
    """OpenCLIP's model configuration: "embed_dim", "vision_cfg", "quick_gelu" ..."""
    transform: Mapping[str, Any]
    """OpenCLIP's preprocessing: "mean", "std", "interpolation", "resize_mode"."""
    checkpoint: Callable[[], Path]
    """Returns the path of the checkpoint, downloaded on first use; raises BackboneError."""
    notes: tuple[str, ...] = ()
    """Remarks for the user."""
    weights_note: str
    """Source of the weights."""


def find_model(name: str, *, offline: bool) -> OpenClipModel:
    """Return the model of a name.

    Args:
        name: The name, with "open_clip:".
        offline: Forbid downloads.

    Raises:
        UnknownNameError: There is no such model, or it has no such pretrained tag.
        BackboneError: A folder or repository is none of OpenCLIP, or is not reachable.
    """
    place = name.partition(":")[2]
    schema, is_schema, rest = place.partition(":")
    if is_schema and schema in ("hf-hub", "local-dir"):
        return _from_files(name, schema, rest, offline=offline)
    return _built_in(name, place, offline=offline)


def _from_files(name: str, schema: str, place: str, *, offline: bool) -> OpenClipModel:
    if not place:
        raise BackboneError(
            f"{name}: expected open_clip:hf-hub:ORG/NAME or open_clip:local-dir:PATH"
        )

    def find(files: tuple[str, ...]) -> Path:
        if schema == "hf-hub":
            is_checkpoint = files != (CONFIG_FILE,)
            return hub_file(
                place, files, name=name, offline=offline, log=is_checkpoint, expected=LAYOUT
            )
        folder = Path(place).expanduser()
        for file in files:
            if (folder / file).is_file():
                return folder / file
        raise BackboneError(
            f"{name}: there is no {' or '.join(files)} in {folder}: expected {LAYOUT}"
        )

    path = find((CONFIG_FILE,))
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        config, transform = dict(values["model_cfg"]), dict(values.get("preprocess_cfg") or {})
        dict(config["vision_cfg"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise BackboneError(f"{name}: {path} is no configuration of OpenCLIP: {e!r}") from e
    return OpenClipModel(
        config=config,
        transform=_complete(transform),
        checkpoint=lambda: find(FOLDER_FILES if schema == "local-dir" else CHECKPOINT_FILES),
        weights_note="those of the folder" if schema == "local-dir" else f"those of {place}",
    )


def _built_in(name: str, place: str, *, offline: bool) -> OpenClipModel:
    from open_clip.factory import get_model_config, list_models
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    model, tag = place.replace("/", "-"), ""
    config = get_model_config(model)
    if config is None and "/" in place:
        model, _, tag = place.rpartition("/")
        model = model.replace("/", "-")
        config = get_model_config(model)
    if config is None:
        known = [f"open_clip:{known}" for known in list_models()]
        raise UnknownNameError("model", name, known)
    tags = list_pretrained_tags_by_model(model)
    published = deepcopy(get_pretrained_cfg(model, tag)) if tag else {}
    if tag and not published:
        raise UnknownNameError(f"pretrained tag of open_clip:{model}", tag, tags)
    notes: tuple[str, ...] = ()
    quick_gelu = published.get("quick_gelu")
    if quick_gelu is not None and quick_gelu != config.get("quick_gelu", False):
        config["quick_gelu"] = quick_gelu
        activation = "QuickGELU" if quick_gelu else "GELU"
        notes = (
            f"{activation}, with which {tag!r} was trained, instead of {model}'s own activation",
        )

    def checkpoint() -> Path:
        if not tag:
            listed = f" ({', '.join(tags[:6])}{', …' if len(tags) > 6 else ''})" if tags else ""
            raise BackboneError(
                f"{name}: no weights are named: use open_clip:{model}/TAG with one of its "
                f"pretrained tags{listed}, or give a local checkpoint as weights"
            )
        repository, _, file = str(published.get("hf_hub") or "").rpartition("/")
        if not repository:
            raise BackboneError(
                f"{name}: its weights are not on the Hugging Face Hub: download "
                f"{published.get('url')} and give the file as weights"
            )
        files = (str(Path(file).with_suffix(".safetensors")), file) if file else CHECKPOINT_FILES
        return hub_file(repository, files, name=name, offline=offline, log=True, expected=LAYOUT)

    return OpenClipModel(
        config=config,
        transform=_complete(published),
        checkpoint=checkpoint,
        notes=notes,
        weights_note=f"OpenCLIP's {tag}" if tag else "none: name a tag, or pass --weights",
    )


def _complete(transform: Mapping[str, Any]) -> dict[str, Any]:
    """Return a preprocessing with OpenCLIP's defaults."""
    from dataclasses import asdict

    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    return dict(merge_preprocess_dict(asdict(PreprocessCfg()), dict(transform)))
