"""Significance of a gain: Wilcoxon test over models, paired bootstrap over test images.

These are two questions. Over models: would another backbone gain, too? Over images: would the same
backbone gain on other test images?

The interval of a single score is `layercache.probing.metrics.bootstrap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layercache.errors import OptionError
from layercache.reporting.dependencies import require

RESAMPLES = 2000
"""Number of bootstrap resamples."""
MAX_ENUMERATED = 12
"""Number of models up to which ties are tested exactly, by all 2^n sign patterns."""


@dataclass(frozen=True, kw_only=True)
class WilcoxonResult:
    """One-sided Wilcoxon signed-rank test that differences are shifted above 0."""

    n: int
    """Number of models."""
    statistic: float
    """Sum of the ranks of the positive differences."""
    p: float
    """Probability of a statistic at least this large under random signs; 1 if nothing differs."""

    @property
    def smallest_p(self) -> float:
        """The p value if all n differences are above 0: 2^-n."""
        return 2.0**-self.n


@dataclass(frozen=True, kw_only=True)
class PairedBootstrap:
    """Gain in balanced accuracy of one head over another, with its interval."""

    gain: float
    """Difference of balanced accuracies, 0..1."""
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


def wilcoxon_greater(differences: ArrayLike) -> WilcoxonResult:
    """Test whether differences are shifted above 0; zeros are left out, as by Wilcoxon.

    Args:
        differences: (n,), one per model.

    Raises:
        MissingExtraError: Without scipy.
        OptionError: If a difference is not finite.
    """
    stats = require("scipy.stats")
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or not np.isfinite(d).all():
        raise OptionError(f"Wilcoxon: expected one finite difference per model, got {d!r}")
    nonzero = d[d != 0]
    if len(nonzero) == 0:
        return WilcoxonResult(n=len(d), statistic=0.0, p=1.0)
    # the differences are accuracies computed in floating point: equal ones must tie
    nonzero = np.round(nonzero, 12)
    if len(nonzero) == 1:
        positive = nonzero[0] > 0
        return WilcoxonResult(n=len(d), statistic=float(positive), p=0.5 if positive else 1.0)
    # scipy's exact distribution holds without ties; with ties every sign pattern is enumerated
    # while that is affordable
    method = "exact"
    if len(np.unique(np.abs(nonzero))) < len(nonzero):
        exact = stats.PermutationMethod(n_resamples=np.inf)
        method = exact if len(nonzero) <= MAX_ENUMERATED else "approx"
    result = stats.wilcoxon(nonzero, alternative="greater", method=method)
    return WilcoxonResult(n=len(d), statistic=float(result.statistic), p=float(result.pvalue))


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p values adjusted for false-discovery control.

    If all tests with an adjusted value <= q are called significant, the expected share of false
    discoveries among them is at most q.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.size == 0:
        return p
    adjusted = require("scipy.stats").false_discovery_control(p, method="bh")
    return np.asarray(adjusted, dtype=np.float64)


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
