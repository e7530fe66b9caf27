"""Comparison of two regressions on the same test images: squared errors and gains in R².

Shapes: N test images, C columns, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layercache.errors import OptionError
from layercache.probing.results.predictions import Predictions
from layercache.reporting.analysis.significance import RESAMPLES, PairedBootstrap

CHUNK = 100
"""Resamples that are computed together."""

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


def paired_bootstrap_r2(
    one: SquaredErrors,
    baseline: SquaredErrors,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> PairedBootstrap:
    """Estimate the interval of a gain in R² over a baseline by resampling the test images.

    Both heads see the same resample. R² is the mean over the columns.

    Args:
        one: Errors of the head.
        baseline: Errors of the baseline, on the same images.
        resamples: Number of resamples.
        level: Coverage of the interval.
        seed: Seed of the resampling.

    Raises:
        OptionError: The images differ.
    """
    if one.ids != baseline.ids or one.errors.shape != baseline.errors.shape:
        raise OptionError("paired bootstrap: expected two heads tested on the same images")
    n = len(one.targets)
    rng = np.random.default_rng(seed)
    gains = np.concatenate(
        [
            _gains(one, baseline, rng.multinomial(n, np.full(n, 1 / n), size=CHUNK))
            for _ in range(-(-resamples // CHUNK))
        ]
    )[:resamples]
    gains = gains[np.isfinite(gains)]
    low, high = np.quantile(gains, [(1 - level) / 2, (1 + level) / 2])
    p = (1 + int((gains <= 1e-12).sum())) / (1 + len(gains))
    gain = float(_gains(one, baseline, np.ones((1, n)))[0])
    return PairedBootstrap(gain=gain, low=float(low), high=float(high), p=p, n_images=n)


def _gains(one: SquaredErrors, baseline: SquaredErrors, counts: NDArray[Any]) -> Floats:
    """Return the difference of R² for each row of counts (R, N), float64 (R,)."""
    centered = one.targets - one.targets.mean(0)
    n = counts.sum(1)[:, None]
    total = counts @ np.square(centered) - np.square(counts @ centered) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((counts @ (baseline.errors - one.errors) / total).mean(1))


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
