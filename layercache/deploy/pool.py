"""Predictions of a probe for image files: of one head, or of the members of an ensemble.

Shapes: N images, C classes or columns.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from layercache.deploy.classifier import Classifier, Regressor, load_model
from layercache.deploy.predict import PredictionResult, describe_outputs, predict
from layercache.errors import OptionError
from layercache.extraction.models.encoder import Encoder
from layercache.probing.results.checkpoint import HeadPath, head_file
from layercache.probing.results.lookup import read_members
from layercache.probing.results.probe_store import Probe, read_probe


def predict_probe(
    path: HeadPath,
    paths: Sequence[str | os.PathLike[str]],
    *,
    root: str | HeadPath | None = None,
    model: str | Encoder | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str | None = None,
    offline: bool = False,
    top_k: int = 5,
    batch_size: int = 32,
    on_error: Literal["raise", "skip"] = "raise",
) -> tuple[Classifier | Regressor, PredictionResult]:
    """Predict for image files with a head, or with each member of an ensemble and their pool.

    The members are loaded one after another; each runs its own backbone.

    Args:
        path: Folder of the probe, or its head file.
        paths: Image files and folders.
        root: Root of the caches, where members of other caches are looked for.
        model: See `load_classifier`; for an ensemble only if all members have one backbone.
        weights: See `load_classifier`, likewise.
        device: See `load_classifier`.
        precision: See `load_classifier`.
        offline: See `load_classifier`.
        top_k: See `predict`.
        batch_size: See `predict`.
        on_error: See `predict`.

    Returns:
        The model (of an ensemble, that of its last member) and the predictions.

    Raises:
        ProbeNotFoundError: There is no saved head, or a member was deleted.
        OptionError: An option is out of range, or one backbone is given for several.
    """
    ensemble = read_probe(head_file(path).parent)
    members: list[tuple[HeadPath, float]] = [(path, 1.0)]
    if ensemble is not None and "ensemble" in ensemble.spec:
        found = read_members(ensemble, root=root)
        members = [(member.path, factor) for member, factor in found]
        _check_backbone([member for member, _ in found], model=model, weights=weights)
    total: np.ndarray[tuple[int, int], np.dtype[np.float64]] | None = None
    for folder, factor in members:
        loaded = load_model(
            folder,
            model=model,
            weights=weights,
            device=device,
            precision=precision,
            offline=offline,
        )
        result = predict(loaded, paths, top_k=top_k, batch_size=batch_size, on_error=on_error)
        if len(members) == 1 and factor == 1.0:
            return loaded, result
        outputs = factor * result.outputs.astype(np.float64)
        total = outputs if total is None else total + outputs
    assert total is not None
    pooled = torch.from_numpy(total.astype(np.float32))
    files = [image.image for image in result.images]
    images = describe_outputs(loaded, files, pooled, top_k=top_k) if files else ()
    return loaded, PredictionResult(
        images=tuple(images), outputs=pooled.numpy(), skipped=result.skipped
    )


def _check_backbone(
    members: Sequence[Probe], *, model: str | Encoder | None, weights: str | Path | None
) -> None:
    """Raise OptionError if one backbone is given for members of several."""
    names = sorted({str(member.row["model"]) for member in members})
    if len(names) > 1 and (model is not None or weights is not None):
        raise OptionError(
            f"model and weights name one backbone, and the members of this ensemble have "
            f"{', '.join(names)}: leave them out, or predict with the members one by one"
        )
