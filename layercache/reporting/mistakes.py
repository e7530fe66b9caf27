"""What one head gets right and another wrong, image by image: confused classes, and the images that were won and lost.

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


def correct(logits: Floats, targets: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,): whether the largest of the (N, C) logits is that of the target (N,)."""
    return np.asarray(logits.argmax(axis=1) == targets)


def confused_pairs(
    better: Floats,
    baseline: Floats,
    *,
    targets: NDArray[Any],
    classes: Sequence[str],
    most: int = 15,
) -> pd.DataFrame:
    """The confusions that changed most: true class, taken for, how often by the baseline and by the better head, and the difference.

    Sorted by the size of the change, then by the baseline's count. Confusions that neither head makes are left out.
    """
    counts = []
    for logits in (baseline, better):
        table = confusion(logits.argmax(axis=1), targets, classes=len(classes))
        np.fill_diagonal(table, 0)
        counts.append(table)
    before, after = counts
    true, taken = np.nonzero(before + after)
    names = np.asarray(classes, dtype=object)
    frame = pd.DataFrame(
        {
            "true_class": names[true],
            "taken_for": names[taken],
            "baseline": before[true, taken],
            "fusion": after[true, taken],
            "change": after[true, taken] - before[true, taken],
        }
    )
    order = np.lexsort((-frame["baseline"], -frame["change"].abs()))
    return frame.iloc[order].head(most).reset_index(drop=True)


def changed_images(
    better: Floats,
    baseline: Floats,
    *,
    targets: NDArray[Any],
    ids: Sequence[str],
    classes: Sequence[str],
) -> pd.DataFrame:
    """Images that exactly one of the two heads classifies rightly, the most decided first.

    Columns: row, id, outcome ("won": only the better head is right, or "lost"), true_class, baseline_says, fusion_says, and the probability that
    each head gives the true class.
    """
    right_a, right_b = correct(better, targets), correct(baseline, targets)
    rows = np.flatnonzero(right_a != right_b)
    names = np.asarray(classes, dtype=object)
    p_a, p_b = _p_true(better[rows], targets[rows]), _p_true(baseline[rows], targets[rows])
    frame = pd.DataFrame(
        {
            "row": rows,
            "id": [ids[i] for i in rows.tolist()],
            "outcome": np.where(right_a[rows], "won", "lost"),
            "true_class": names[targets[rows]],
            "baseline_says": names[baseline[rows].argmax(axis=1)],
            "fusion_says": names[better[rows].argmax(axis=1)],
            "baseline_p_true": p_b,
            "fusion_p_true": p_a,
        }
    )
    return frame.iloc[np.argsort(-np.abs(p_a - p_b), kind="stable")].reset_index(drop=True)


def _p_true(logits: Floats, targets: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax probability of the target of each row."""
    x = np.asarray(logits, dtype=np.float64)
    x = x - x.max(axis=1, keepdims=True)
    return np.asarray(np.exp(x[np.arange(len(x)), targets]) / np.exp(x).sum(axis=1))
