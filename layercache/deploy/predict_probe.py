"""Predictions of a probe for image files: of one head, or of the members of an ensemble.

Shapes: N images, C classes or columns.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from layercache.deploy.backbones import Weights
from layercache.deploy.classifier import Classifier, Regressor, load_models
from layercache.deploy.predict import PoolMember, PredictionResult, predict_pool
from layercache.extraction.models.encoder import Encoder
from layercache.probing.results.head_checkpoint import HeadPath, head_file
from layercache.probing.results.lookup import read_members
from layercache.probing.results.probe_store import read_probe


def predict_probe(
    path: HeadPath,
    paths: Sequence[str | os.PathLike[str]],
    *,
    root: str | HeadPath | None = None,
    model: str | Encoder | None = None,
    weights: Weights | None = None,
    device: str = "auto",
    precision: str | None = None,
    offline: bool = False,
    top_k: int = 5,
    batch_size: int = 32,
    on_error: Literal["raise", "skip"] = "raise",
) -> tuple[Classifier | Regressor, PredictionResult]:
    """Predict for image files with a head, or with the pool of the members of an ensemble.

    All members are in memory together, and those of one backbone share it. Each image is decoded
    once.

    Args:
        path: Folder of the probe, or its head file.
        paths: Image files and folders.
        root: Root of the caches, where members of other caches are looked for.
        model: See `load_classifier`; for an ensemble only if all members have one backbone.
        weights: See `load_classifier`; for members of several models, a file of each.
        device: See `load_classifier`.
        precision: See `load_classifier`.
        offline: See `load_classifier`.
        top_k: See `predict`.
        batch_size: See `predict`.
        on_error: See `predict`.

    Returns:
        The model (of an ensemble, that of its first member) and the predictions.

    Raises:
        ProbeNotFoundError: There is no saved head, or a member was deleted.
        OptionError: An option is out of range, or one backbone is given for several.
    """
    ensemble = read_probe(head_file(path).parent)
    members: list[tuple[HeadPath, float]] = [(path, 1.0)]
    if ensemble is not None and "ensemble" in ensemble.spec:
        found = read_members(ensemble, root=root)
        members = [(member.path, factor) for member, factor in found]
    models = load_models(
        [folder for folder, _ in members],
        model=model,
        weights=weights,
        device=device,
        precision=precision,
        offline=offline,
    )
    pool = [
        PoolMember(model=loaded, factor=factor)
        for loaded, (_, factor) in zip(models, members, strict=True)
    ]
    result = predict_pool(pool, paths, top_k=top_k, batch_size=batch_size, on_error=on_error)
    return models[0], result
