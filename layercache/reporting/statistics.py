"""Is a gain more than luck: over models (Wilcoxon, false-discovery control) and over test images (paired bootstrap).

Two questions that must not be mixed. Over models: would another backbone gain too? Over images: would the same backbone gain on other test images?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layercache.errors import OptionError
from layercache.reporting.plotting.figure import require

EXACT = 12
"""Up to so many models the test is exact even with ties (all 2^n signs); beyond, ties are left to the normal approximation."""


@dataclass(frozen=True, kw_only=True)
class Wilcoxon:
    """One-sided Wilcoxon signed-rank test that the differences are shifted above 0."""

    n: int
    """Number of models."""
    statistic: float
    """Sum of the ranks of the positive differences."""
    p: float
    """Probability of a statistic at least this large if signs were thrown by a coin; 1 where nothing differs or there is nothing."""

    @property
    def smallest_p(self) -> float:
        """The p that n differences, all above 0, would reach: 2^-n."""
        return 2.0**-self.n


@dataclass(frozen=True, kw_only=True)
class PairedGain:
    """Gain in balanced accuracy of one head over another on the same test images, with what resampling the images says of it."""

    gain: float
    """Difference of balanced accuracies, 0..1."""
    low: float
    """Lower end of the interval (percentile bootstrap)."""
    high: float
    """Upper end."""
    level: float
    """Coverage of the interval, 0.95 by default."""
    p: float
    """One-sided: share of resamples without a gain, (1 + count) / (1 + resamples)."""
    images: int
    """Test images."""
    resamples: int
    """Bootstrap resamples."""


def wilcoxon_greater(differences: ArrayLike) -> Wilcoxon:
    """Test over models that `differences` (n,), one per model, are shifted above 0; zeros are left out as Wilcoxon did.

    Raises MissingExtraError without scipy, OptionError where a difference is not finite.
    """
    stats = require("scipy.stats")
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or not np.isfinite(d).all():
        raise OptionError(f"Wilcoxon: expected one finite difference per model, got {d!r}")
    moved = d[d != 0]
    if len(moved) == 0:
        return Wilcoxon(n=len(d), statistic=0.0, p=1.0)
    # the differences are accuracies computed in floating point: equal ones must tie
    moved = np.round(moved, 12)
    if len(moved) == 1:
        return Wilcoxon(n=len(d), statistic=float(moved[0] > 0), p=0.5 if moved[0] > 0 else 1.0)
    tied = len(np.unique(np.abs(moved))) < len(moved)
    # scipy's exact distribution holds without ties; with them, every sign pattern is enumerated while that is affordable
    method = (
        ("approx" if len(moved) > EXACT else stats.PermutationMethod(n_resamples=np.inf))
        if tied
        else "exact"
    )
    result = stats.wilcoxon(moved, alternative="greater", method=method)
    return Wilcoxon(n=len(d), statistic=float(result.statistic), p=float(result.pvalue))


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p values: calling all with an adjusted value <= q significant keeps the expected share of false calls at or below q."""
    p = np.asarray(p_values, dtype=np.float64)
    if p.size == 0:
        return p
    return np.asarray(
        require("scipy.stats").false_discovery_control(p, method="bh"), dtype=np.float64
    )


def paired_bootstrap(
    better: ArrayLike,
    baseline: ArrayLike,
    *,
    labels: Sequence[int] | NDArray[Any],
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedGain:
    """Resamples the test images, the same ones for both heads, within each class (so that no class can vanish).

    Parameters
    ----------
    better, baseline
        (N,): whether each image was classified rightly, 0/1 or the share of seeds that did.
    labels
        (N,): class numbers; balanced accuracy is the mean over classes of the mean within.

    Raises OptionError if the lengths differ.
    """
    a, b, y = (
        np.asarray(better, dtype=np.float64),
        np.asarray(baseline, dtype=np.float64),
        np.asarray(labels),
    )
    if not a.shape == b.shape == y.shape or a.ndim != 1 or len(a) == 0:
        raise OptionError(
            f"paired bootstrap: expected three vectors over the same images, got shapes {a.shape}, {b.shape} and {y.shape}"
        )
    difference = a - b
    rng = np.random.default_rng(seed)
    classes = np.unique(y)
    observed, drawn = 0.0, np.zeros(resamples)
    for c in classes:
        own = difference[y == c]
        observed += own.mean() / len(classes)
        # drawing n values with replacement out of few different ones is drawing how often each comes: a multinomial
        values, counts = np.unique(own, return_counts=True)
        drawn += (
            rng.multinomial(len(own), counts / len(own), size=resamples)
            @ values
            / (len(own) * len(classes))
        )
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    # 1e-12: a resample without any difference may sum to a rounding error
    p = (1 + int((drawn <= 1e-12).sum())) / (1 + resamples)
    return PairedGain(
        gain=observed,
        low=float(low),
        high=float(high),
        level=level,
        p=p,
        images=len(y),
        resamples=resamples,
    )
