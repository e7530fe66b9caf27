"""Errors of regressions on the same test images.

Shapes: N test images, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layercache.probing.results.predictions import Predictions

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class SquaredErrors:
    """Errors of one kind of probe on each test image."""

    errors: Floats
    """Squared error, the mean over the seeds, (N, C)."""
    targets: Floats
    """True values, (N, C)."""
    ids: str
    """Digest of the test images' ids."""


def squared_errors(predictions: Sequence[Predictions]) -> SquaredErrors | None:
    """Return the mean over probes that differ only in their seed; None if images differ."""
    if not predictions or len({p.ids for p in predictions}) != 1:
        return None
    targets = np.asarray(predictions[0].targets, np.float64)
    errors = [np.square(p.logits.astype(np.float64) - targets) for p in predictions]
    return SquaredErrors(errors=np.mean(errors, axis=0), targets=targets, ids=predictions[0].ids)


def largest_errors(
    fusion: Predictions, baseline: Predictions, *, ids: Sequence[str], columns: Sequence[str]
) -> pd.DataFrame:
    """List all test images with the true value and both predictions, largest error first.

    Args:
        fusion: Predictions of the fusion head.
        baseline: Predictions of the baseline on the same images.
        ids: Ids of the images.
        columns: Names of the C columns.

    Returns:
        Columns id, column, true_value, baseline_prediction, fusion_prediction, baseline_error and
        fusion_error (prediction minus true value).
    """
    frames = []
    for c, column in enumerate(columns):
        true = fusion.targets[:, c]
        before, after = (p.logits[:, c].astype(np.float64) for p in (baseline, fusion))
        frames.append(
            pd.DataFrame(
                {
                    "id": list(ids),
                    "column": column,
                    "true_value": true,
                    "baseline_prediction": before,
                    "fusion_prediction": after,
                    "baseline_error": before - true,
                    "fusion_error": after - true,
                }
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    order = np.argsort(-frame["fusion_error"].abs().to_numpy(), kind="stable")
    return frame.iloc[order].reset_index(drop=True)
