"""The backbones that heads were trained on: loaded by their names, checked by their weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from layercache._units import join_words
from layercache.errors import BackboneError, HeadMismatchError, OptionError
from layercache.extraction.models.backbone import COMPUTE_DTYPES, Backbone
from layercache.extraction.models.encoder import ARCHITECTURE_PREFIX, Encoder
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.preprocessing.transform import Preprocessing
from layercache.extraction.options import weights_by_model
from layercache.probing.results.head_checkpoint import Checkpoint, EncoderRecord

Weights = str | Path | Sequence[str] | Mapping[str, str | Path]
"""Checkpoint of the only model, or "MODEL=FILE" for each, also as a mapping."""


def load_backbones(
    heads: Sequence[Checkpoint],
    *,
    model: str | Encoder | None = None,
    weights: Weights | None = None,
    device: str = "cpu",
    precision: str | None = None,
    offline: bool = False,
) -> list[list[Backbone]]:
    """Load the backbones that heads were trained on, with the layers and tokens that they read.

    They preprocess as recorded with the heads, and their tokens stay in float32. Heads of one
    backbone share it. The results may be other backbones; `check_compatible` tells.

    Args:
        heads: The trained heads.
        model: The backbone, if it is not under its recorded name; only for heads of one model.
        weights: Checkpoint of the only model, or of each.
        device: Device of the backbones.
        precision: Arithmetic of the backbones; None: that of the caches.
        offline: Download nothing.

    Returns:
        The backbone of each encoder of each head.

    Raises:
        OptionError: For an unknown `precision`, an incomplete record of the preprocessing, or one
            backbone that is given for several, and whatever `load_encoder` raises.
        BackboneError: There is no encoder to run.
    """
    if precision is not None and precision not in COMPUTE_DTYPES:
        raise OptionError(
            f"precision: expected one of {', '.join(COMPUTE_DTYPES)}, got {precision!r}"
        )
    records: dict[str, EncoderRecord] = {}
    pairs: dict[str, set[tuple[int, str]]] = {}
    for head in heads:
        for record, of_record in head.provenance.tokens_by_encoder:
            records.setdefault(key := _key(record), record)
            pairs.setdefault(key, set()).update(of_record)
    names = list(dict.fromkeys(record.model for record in records.values()))
    if model is not None and len(names) > 1:
        raise OptionError(
            f"model is one backbone, and the tokens are of {join_words(names)}: leave it out, and "
            "make each of them available under its name"
        )
    files = weights_by_model(weights, models=names)
    loaded = {
        key: _load(
            record,
            pairs[key],
            model=model,
            weights=files.get(record.model),
            device=device,
            precision=precision or record.precision,
            offline=offline,
        )
        for key, record in records.items()
    }
    return [
        [loaded[_key(record)] for record, _ in head.provenance.tokens_by_encoder] for head in heads
    ]


def check_compatible(
    record: EncoderRecord, pairs: Sequence[tuple[int, str]], backbone: Backbone
) -> None:
    """Check that `backbone` is the one that a head was trained on.

    Args:
        record: The head's own.
        pairs: (layer, token) of the tokens that the head reads from it.
        backbone: What was loaded.

    Raises:
        HeadMismatchError: If the weights (by digest), the preprocessing, the tap or the tokens
        differ.
    """
    if backbone.weights_digest != record.weights:
        raise HeadMismatchError(
            f"this head was trained on {record.model} with weights {record.weights[:12]}…, "
            f"this {backbone.name} has {backbone.weights_digest[:12]}…: pass the checkpoint that "
            "it was trained on as `weights`, or train a head on this backbone"
        )
    for name, expected, given in (
        ("tap", record.tap, backbone.tap),
        ("projected", record.projected, backbone.projected),
        ("preprocessing", dict(record.preprocessing), backbone.preprocessing.to_json()),
    ):
        if expected != given:
            raise HeadMismatchError(
                f"this head was trained with {name} {expected}, this {backbone.name} has {given}: "
                "load the backbone as it was at extraction"
            )
    missing = [
        f"{layer}:{token}"
        for layer, token in pairs
        if layer not in backbone.layers or token not in backbone.tokens
    ]
    if missing:
        raise HeadMismatchError(
            f"this head reads tokens that this {backbone.name} was loaded without: "
            f"{', '.join(missing[:6])}"
        )


def has_address(record: EncoderRecord) -> bool:
    """Return whether the backbone can be loaded by its name; an Encoder object cannot."""
    return ":" in record.model or not record.architecture.startswith(ARCHITECTURE_PREFIX)


def token_kinds(names: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds to load for stored names: "grid:2" for "grid:2/0", "all" for "patch/3"."""
    kinds = list(
        dict.fromkeys("all" if name.startswith("patch/") else name.split("/")[0] for name in names)
    )
    return tuple(kind for kind in kinds if not (kind == "cls" and "all" in kinds))


def _key(record: EncoderRecord) -> str:
    """Return a text that two records share if one backbone makes the tokens of both."""
    names = [field.name for field in fields(EncoderRecord)]
    return json.dumps({name: getattr(record, name) for name in names}, sort_keys=True)


def _load(
    record: EncoderRecord,
    pairs: set[tuple[int, str]],
    *,
    model: str | Encoder | None,
    weights: str | Path | None,
    device: str,
    precision: str,
    offline: bool,
) -> Backbone:
    if record.imported:
        raise BackboneError(
            f"{record.model}: this head was trained on imported tokens, whose encoder "
            "layercache does not have: use the head on tokens, with layercache.load_head or "
            "layercache.heads.load"
        )
    if model is None and not has_address(record):
        raise BackboneError(
            f"{record.model}: the tokens are those of an Encoder object from Python, which no "
            "file holds: pass it as `model`, load_classifier(head, model=encoder), or the "
            "FILE.py:FUNCTION of a function that returns it"
        )
    preprocessing = Preprocessing.from_json(record.preprocessing)
    return load_encoder(
        model or record.model,
        weights=weights,
        tap=record.tap,  # type: ignore[arg-type]  # a cache's spec held it
        layers=sorted({layer for layer, _ in pairs}),
        tokens=token_kinds(sorted({token for _, token in pairs})),
        projected=record.projected,
        precision=precision,  # type: ignore[arg-type]
        storage_dtype="float32",
        device=device,
        preprocessing=preprocessing,
        background=preprocessing.background,
        offline=offline,
    )
