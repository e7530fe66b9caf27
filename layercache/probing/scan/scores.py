"""Outputs on test rows to metrics with intervals, without keeping all logits.

Shapes: N samples, B samples of a block, C classes or columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layercache.probing.heads.spec import CLASSIFICATION, MULTI_LABEL
from layercache.probing.metrics import (
    PRIMARY,
    STANDARD,
    MultiLabel,
    Regression,
    Samples,
    SingleLabel,
    bootstrap_samples,
    compute,
    compute_from_samples,
    summarize_logits,
)

RESAMPLES = 500


class Outputs:
    """Outputs of one model, added block by block."""

    def __init__(self, task: str, classes: int) -> None:
        self._task, self._classes = task, classes
        self._parts: list[dict[str, Tensor]] = []

    def add(self, outputs: Tensor, y: Tensor) -> None:
        """Add the outputs (B, C) of a block with its targets."""
        if self._task == CLASSIFICATION:
            kept = summarize_logits(outputs, y)
        else:
            kept = {"outputs": outputs}
        self._parts.append({name: values.cpu() for name, values in kept.items()})

    def samples(self, y: Tensor) -> Samples:
        """Return what the metrics need, with the targets of all samples."""
        columns = {name: torch.cat([p[name] for p in self._parts]) for name in self._parts[0]}
        if self._task == CLASSIFICATION:
            return SingleLabel(targets=y, n_classes=self._classes, **columns)
        if self._task == MULTI_LABEL:
            return MultiLabel.from_logits(columns["outputs"], y)
        return Regression.from_values(columns["outputs"], y)


def score(outputs: Tensor, y: Tensor, *, task: str) -> float:
    """Return the metric that selects settings, larger is better; NaN where it is not defined."""
    if task == CLASSIFICATION:  # without the probabilities that other metrics need
        classes = outputs.shape[1]
        hits = torch.bincount(y[outputs.argmax(1) == y], minlength=classes)
        support = torch.bincount(y, minlength=classes)
        return float((hits / support)[support > 0].double().mean())
    name = PRIMARY[task]
    return compute(outputs.cpu(), y.cpu(), task=task, names=[name])[name]


def columns_of_test(
    models: Sequence[Samples], *, task: str, groups: np.ndarray[Any, Any] | None
) -> list[dict[str, Any]]:
    """Return the columns of the table that test samples give, for each model.

    Args:
        models: Outputs of each model on the same samples.
        task: classification, multi-label or regression.
        groups: Group of each sample, of which the intervals draw whole ones; None: no groups.
    """
    name = PRIMARY[task]
    intervals = bootstrap_samples(
        models, task=task, names=[name], groups=groups, resamples=RESAMPLES
    )
    rows = []
    for samples, interval in zip(models, intervals, strict=True):
        values = compute_from_samples(samples, task=task, names=STANDARD[task])
        low, high = interval[name]
        columns = {f"test_{metric}": value for metric, value in values.items()}
        rows.append({**columns, "test_ci95_low": low, "test_ci95_high": high})
    return rows


def as_targets(values: np.ndarray[Any, Any], *, device: torch.device) -> Tensor:
    """Return targets on a device: class numbers int64 (N,), or (N, C)."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
