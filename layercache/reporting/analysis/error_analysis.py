"""Errors of two heads: changed confusions, and images that only one of them gets right.

Shapes: N test images, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layercache.probing.metrics import confusion

Floats = NDArray[Any]

MAX_CONFUSIONS = 15
"""Number of changed confusions that are listed at most."""


def is_correct(logits: Floats, targets: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether the largest of the logits (N, C) is that of the target (N,), as bool (N,)."""
    return np.asarray(logits.argmax(axis=1) == targets)


def changed_confusions(
    fusion: Floats,
    baseline: Floats,
    *,
    targets: NDArray[Any],
    classes: Sequence[str],
) -> pd.DataFrame:
    """Count how often one class is taken for another by the baseline and by the fusion head.

    Args:
        fusion: Logits (N, C) of the fusion head.
        baseline: Logits (N, C) of the baseline.
        targets: Class numbers (N,).
        classes: Class names.

    Returns:
        Columns true_class, predicted_class, baseline, fusion and change, largest change first, then
        by the baseline's count, MAX_CONFUSIONS rows at most. Confusions that neither head makes are
        left out.
    """
    counts = []
    for logits in (baseline, fusion):
        matrix = confusion(logits.argmax(axis=1), targets, classes=len(classes))
        np.fill_diagonal(matrix, 0)
        counts.append(matrix)
    before, after = counts
    true, predicted = np.nonzero(before + after)
    names = np.asarray(classes, dtype=object)
    frame = pd.DataFrame(
        {
            "true_class": names[true],
            "predicted_class": names[predicted],
            "baseline": before[true, predicted],
            "fusion": after[true, predicted],
            "change": after[true, predicted] - before[true, predicted],
        }
    )
    order = np.lexsort((-frame["baseline"], -frame["change"].abs()))
    return frame.iloc[order].head(MAX_CONFUSIONS).reset_index(drop=True)


def changed_images(
    fusion: Floats,
    baseline: Floats,
    *,
    targets: NDArray[Any],
    ids: Sequence[str],
    classes: Sequence[str],
) -> pd.DataFrame:
    """List the images that exactly one of two heads classifies correctly.

    Args:
        fusion: Logits (N, C) of the fusion head.
        baseline: Logits (N, C) of the baseline.
        targets: Class numbers (N,).
        ids: Ids of the images.
        classes: Class names.

    Returns:
        Columns row, id, outcome ("won" if only the fusion head is right, else "lost"), true_class,
        baseline_prediction, fusion_prediction, and the probability that each head gives the true
        class, baseline_p_true and fusion_p_true; largest difference of probabilities first.
    """
    fusion_correct, baseline_correct = is_correct(fusion, targets), is_correct(baseline, targets)
    rows = np.flatnonzero(fusion_correct != baseline_correct)
    names = np.asarray(classes, dtype=object)
    fusion_p = _target_probability(fusion[rows], targets[rows])
    baseline_p = _target_probability(baseline[rows], targets[rows])
    frame = pd.DataFrame(
        {
            "row": rows,
            "id": [ids[i] for i in rows.tolist()],
            "outcome": np.where(fusion_correct[rows], "won", "lost"),
            "true_class": names[targets[rows]],
            "baseline_prediction": names[baseline[rows].argmax(axis=1)],
            "fusion_prediction": names[fusion[rows].argmax(axis=1)],
            "baseline_p_true": baseline_p,
            "fusion_p_true": fusion_p,
        }
    )
    order = np.argsort(-np.abs(fusion_p - baseline_p), kind="stable")
    return frame.iloc[order].reset_index(drop=True)


def _target_probability(logits: Floats, targets: NDArray[Any]) -> NDArray[np.float64]:
    """Return the softmax probability of the target of each row."""
    x = np.asarray(logits, dtype=np.float64)
    x = x - x.max(axis=1, keepdims=True)
    return np.asarray(np.exp(x[np.arange(len(x)), targets]) / np.exp(x).sum(axis=1))
