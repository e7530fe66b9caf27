"""Specs of probes as probe.json stores them, of caches that nobody writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from layercache.cache import Cache
from layercache.probing.heads import HeadSpec
from layercache.probing.spec import ProbeSpec
from layercache.probing.token_selection import select_tokens
from layercache.probing.training.config import TrainConfig, paper_grid
from layercache.testing import make_spec


def make_probe_spec(*, cache: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return the spec of a probe as probe.json stores it."""
    opened = Cache(Path("/nowhere"), make_spec(**(cache or {})))  # nothing is read
    head = changes.pop("head", "linear")
    selection = select_tokens(
        opened,
        head=head,
        layers=changes.pop("layers", "last"),
        tokens=changes.pop("tokens", "cls"),
    )
    kind = "linear" if head in ("knn", "logreg") else head
    spec = ProbeSpec(
        tokens=selection,
        head=head,
        head_spec=HeadSpec(kind=kind, tokens=len(selection.pairs), width=8, classes=3),
        grid=tuple(hparams.to_dict() for hparams in paper_grid(kind)),
        seed=0,
        shots=None,
        train_fraction=None,
        train_config=TrainConfig(),
        precision="fp32",
    )
    return json.loads(json.dumps(replace(spec, **changes).to_json()))


def grid(*points: tuple[float, float, float]) -> tuple[dict[str, float], ...]:
    names = ("lr", "weight_decay", "dropout")
    return tuple(dict(zip(names, point, strict=True)) for point in points)
