"""Significance of gains over models: would another backbone gain, too?

The Wilcoxon signed-rank test, and p values adjusted for the number of tests. Over test images, the
significance of a gain is in `reporting.analysis.paired_bootstrap`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layercache.errors import OptionError
from layercache.reporting.dependencies import require

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
