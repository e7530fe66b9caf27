"""Paired bootstrap: interval of the gain of one probe over another, over test images.

Would the same backbone gain on other test images? The interval of the score of a single probe is in
`probing.metrics.bootstrap_interval`.

Shapes: N test images, C columns of a regression, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layercache.errors import OptionError
from layercache.reporting.analysis.regression import SquaredErrors

RESAMPLES = 2000
"""Number of bootstrap resamples."""
CHUNK = 100
"""Resamples of a regression that are computed together."""


@dataclass(frozen=True, kw_only=True)
class PairedBootstrap:
    """Gain in balanced accuracy or R² of one head over another, with its interval."""

    gain: float
    """Difference of balanced accuracies, -1..1, or of R²."""
    low: float
    """Lower end of the interval (percentile bootstrap)."""
    high: float
    """Upper end of the interval."""
    p: float
    """One-sided p value: (1 + number of resamples without a gain) / (1 + number of resamples)."""
    n_images: int
    """Number of test images."""

    @property
    def sign(self) -> int:
        """1 for a significant gain, -1 for a significant loss, 0 if the interval contains 0."""
        return int(self.low > 0) - int(self.high < 0)


def paired_bootstrap(
    correct: ArrayLike,
    baseline_correct: ArrayLike,
    *,
    labels: Sequence[int] | NDArray[Any],
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> PairedBootstrap:
    """Estimate the interval of a gain over a baseline by resampling the test images.

    Both heads see the same resample. Images are drawn within each class, so no class can vanish.

    Args:
        correct: (N,), whether the head classifies each image correctly, 0/1 or the share of seeds.
        baseline_correct: (N,), the same for the baseline.
        labels: (N,), class numbers; balanced accuracy is the mean over classes of the mean within.
        resamples: Number of resamples.
        level: Coverage of the interval.
        seed: Seed of the resampling.

    Raises:
        OptionError: If the lengths differ.
    """
    a = np.asarray(correct, dtype=np.float64)
    b = np.asarray(baseline_correct, dtype=np.float64)
    y = np.asarray(labels)
    if not a.shape == b.shape == y.shape or a.ndim != 1 or len(a) == 0:
        raise OptionError(
            "paired bootstrap: expected three vectors over the same images, "
            f"got shapes {a.shape}, {b.shape} and {y.shape}"
        )
    rng = np.random.default_rng(seed)
    classes = np.unique(y)
    gain, totals = 0.0, np.zeros(resamples)
    for c in classes:
        difference = (a - b)[y == c]
        n = len(difference)
        gain += difference.mean() / len(classes)
        # drawing n of a few distinct values with replacement is drawing their counts: a multinomial
        values, counts = np.unique(difference, return_counts=True)
        drawn = rng.multinomial(n, counts / n, size=resamples)
        totals += drawn @ values / (n * len(classes))
    low, high = np.quantile(totals, [(1 - level) / 2, (1 + level) / 2])
    # 1e-12: a resample without any difference may sum to a rounding error
    p = (1 + int((totals <= 1e-12).sum())) / (1 + resamples)
    return PairedBootstrap(
        gain=gain,
        low=float(low),
        high=float(high),
        p=p,
        n_images=len(y),
    )


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


def _gains(
    one: SquaredErrors, baseline: SquaredErrors, counts: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the difference of R² for each row of counts (R, N), float64 (R,)."""
    centered = one.targets - one.targets.mean(0)
    n = counts.sum(1)[:, None]
    total = counts @ np.square(centered) - np.square(counts @ centered) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((counts @ (baseline.errors - one.errors) / total).mean(1))
