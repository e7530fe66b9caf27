"""Mean gain of one method over another, with a paired bootstrap interval over images and seeds.

Shapes: K tasks, S seeds, N test images of a task, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Outcome:
    """Test outcomes of two methods on the same images of one task."""

    targets: Array
    """(N,) classes, int."""
    first: Array
    """(S, N) bool: whether the first method is right, for every seed."""
    second: Array
    """(S, N) bool, likewise of the second, with the same seeds."""


@dataclass(frozen=True)
class Gain:
    """Gain of the first method over the second in balanced accuracy, in points."""

    mean: float
    """Mean over tasks and seeds."""
    low: float
    """2.5 % quantile of the resampled mean."""
    high: float
    """97.5 % quantile of the resampled mean."""

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def gain(outcomes: Sequence[Outcome], *, resamples: int = 1000, seed: int = 0) -> Gain:
    """Return the mean gain over tasks and its 95 % interval.

    Each resample draws, in every task, as many images as there are, class by class, and as many
    seeds as there are; both methods get the same images and seeds. Tasks are not resampled: the
    interval is for these tasks, not for tasks in general.
    """
    rng = np.random.default_rng(seed)
    means, draws = [], []
    for outcome in outcomes:
        difference = class_means(outcome, resamples=resamples, rng=rng)
        means.append(difference[0].mean())
        n_seeds = difference.shape[1]
        chosen = rng.integers(n_seeds, size=(resamples, n_seeds))
        draws.append(np.take_along_axis(difference[1:], chosen, axis=1).mean(1))
    low, high = np.quantile(np.mean(draws, axis=0), (0.025, 0.975))
    return Gain(100 * float(np.mean(means)), 100 * float(low), 100 * float(high))


def class_means(outcome: Outcome, *, resamples: int, rng: np.random.Generator) -> Array:
    """Return the gain in balanced accuracy of all images, then of each resample: (1 + R, S)."""
    difference = outcome.first.astype(np.float64) - outcome.second
    total = np.zeros((1 + resamples, len(difference)))
    classes = np.unique(outcome.targets)
    for label in classes:
        rows = np.flatnonzero(outcome.targets == label)
        weights = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=resamples)
        weights = np.concatenate([np.ones((1, len(rows))), weights]) / len(rows)
        total += weights @ difference[:, rows].T
    return total / len(classes)
