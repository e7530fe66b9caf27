"""Pool or best member: which of them an ensemble is, by cross-fitted scores.

Shapes: M members, N samples, C classes, or columns of a regression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from layercache.errors import ProbeError
from layercache.probing.ensemble.log_linear_pool import Pool, combine, fit_pool, one_member
from layercache.probing.heads.spec import REGRESSION
from layercache.probing.metrics import Metric, compute
from layercache.probing.splits.folds import draw_folds
from layercache.probing.splits.stratified_split import Fold, Rows
from layercache.probing.targets.target import stratify

Array = np.ndarray[Any, Any]

FOLDS = 5
"""Parts of the held-out samples: powers fitted on all but one are scored on that one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """The fitted pool, its scores, and what the ensemble is."""

    metric: Metric
    """Metric of the scores."""
    fitted: Pool
    """The pool, fitted to all held-out samples."""
    member_scores: tuple[float, ...]
    """Score of each member on them, (M,)."""
    score: float
    """Score of the pool, cross-fitted."""
    in_sample_score: float
    """Score of the pool on the samples that it was fitted to."""
    equal_score: float
    """Score of the pool with equal weights and the temperature of the fitted one."""

    @property
    def fallback(self) -> int | None:
        """Number of the member that the ensemble is, as the pool scores less; None: the pool."""
        sign = self.metric.sign
        best = int(np.argmax([sign * score for score in self.member_scores]))
        return best if sign * self.worse_score < sign * self.member_scores[best] else None

    @property
    def pool(self) -> Pool:
        """The pool that the ensemble uses: the fitted one, or the best member alone."""
        return self.fitted if self.fallback is None else one_member(self.fitted, self.fallback)

    @property
    def worse_score(self) -> float:
        """The worse of the pool's two scores, which must not be below the best member's."""
        return min(self.score, self.in_sample_score, key=lambda score: self.metric.sign * score)

    @property
    def val_score(self) -> float:
        """Held-out score of the ensemble."""
        return self.score if self.fallback is None else self.member_scores[self.fallback]


def choose_pool(
    outputs_mnc: Array,
    targets: Array,
    *,
    task: str,
    metric: Metric,
    class_weights: bool,
    groups: Rows | None = None,
) -> Choice:
    """Fit a pool and compare it with its best member on the same samples.

    Args:
        outputs_mnc: Held-out outputs of the members, float32 (M, N, C).
        targets: Targets of the samples.
        task: classification, multi-label or regression.
        metric: Metric to compare by.
        class_weights: As in `fit_pool`.
        groups: Number of each sample's group, (N,), which is not divided by the cross-fitting.

    Raises:
        ProbeError: The metric is not defined on these samples, or they are all of one group.
    """

    def score(outputs_nc: Array) -> float:
        return compute(outputs_nc, targets, task=task, names=[metric.name])[metric.name]

    def fit(rows: Array) -> Pool:
        return fit_pool(outputs_mnc[:, rows], targets[rows], task=task, class_weights=class_weights)

    everything = np.arange(len(targets))
    pool = fit(everything)
    cross_fitted = np.zeros(outputs_mnc.shape[1:], np.float32)
    for fold in _folds(targets, task, groups=groups):
        cross_fitted[fold.val] = fit(fold.train).combine(outputs_mnc[:, fold.val])
    member_scores = tuple(score(outputs) for outputs in outputs_mnc)
    pooled, in_sample = score(cross_fitted), score(pool.combine(outputs_mnc))
    if not np.isfinite([*member_scores, pooled, in_sample]).all():
        raise ProbeError(
            f"the {metric.title} of the {len(targets)} held-out samples is not defined, so that "
            "pool and members cannot be compared (docs/metrics.md says when): use another metric "
            "with select (--select), or probes with folds=5 (--folds 5)"
        )
    equal = 1 / (len(outputs_mnc) * pool.spreads * pool.temperature)
    return Choice(
        metric=metric,
        fitted=pool,
        member_scores=member_scores,
        score=pooled,
        in_sample_score=in_sample,
        equal_score=score(combine(outputs_mnc, equal)),
    )


def _folds(targets: Array, task: str, *, groups: Rows | None) -> list[Fold]:
    """Return stratified folds of the held-out samples.

    There are fewer of them where classes are small, or where there are few groups.
    """
    labels = stratify(targets, task=task)
    largest = len(targets) if task == REGRESSION else _largest_stratum(labels)
    n_groups = FOLDS if groups is None else len(np.unique(groups))
    if n_groups < 2:
        raise ProbeError(
            "the held-out samples are all of one group, so that no weights can be fitted on others "
            "of them: train the members with folds=5 (--folds 5), which hold out every group"
        )
    n_folds = max(2, min(FOLDS, largest, n_groups))
    return draw_folds(labels, seed=0, n_folds=n_folds, groups=groups)[0]


def _largest_stratum(labels: Array) -> int:
    _, counts = np.unique(labels, axis=0, return_counts=True)
    return int(counts.max())
