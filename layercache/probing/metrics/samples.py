"""Outputs on the samples as the metrics need them, one class per task.

Shapes: N samples, C classes, T targets of a regression.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layercache.probing.heads.spec import MULTI_LABEL

CHUNK_ELEMENTS = 2**22
"""Logits that are converted to probabilities at a time."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class SingleLabel:
    """Output of a classifier and the true classes."""

    targets: Tensor
    """True classes, int64 (N,)."""
    n_classes: int
    """C."""
    predicted: Tensor
    """Class with the largest logit, the first of ties, int64 (N,)."""
    ranks: Tensor
    """Number of classes that rank above the true one, int64 (N,), see `class_ranks`."""
    log_prob: Tensor
    """Logarithm of the true class's probability, (N,)."""
    confidence: Tensor
    """Probability of the predicted class, (N,)."""
    squared_error: Tensor
    """Sum over the classes of (probability - target)^2, (N,)."""
    logits: Tensor | None = None
    """(N, C); without them there are no metrics that rank samples."""

    @classmethod
    def from_logits(cls, logits: Array | Tensor, targets: Array | Tensor) -> SingleLabel:
        """Return what the metrics need of logits (N, C) and true classes (N,)."""
        all_logits, labels = torch.as_tensor(logits), _as_int64(targets)
        parts = [
            summarize_logits(all_logits[start:stop].double(), labels[start:stop])
            for start, stop in _chunks(*all_logits.shape)
        ]
        columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return cls(targets=labels, n_classes=all_logits.shape[1], logits=all_logits, **columns)

    @cached_property
    def correct(self) -> Tensor:
        """Whether the predicted class is the true one, bool (N,)."""
        return self.predicted == self.targets

    def log_odds(self) -> Tensor:
        """Return log(p / (1 - p)) of every class's softmax probability, (N, C) float64.

        It ranks samples as the probabilities do, but does not round to 0 or 1.
        """
        assert self.logits is not None
        odds = torch.empty(self.logits.shape, dtype=torch.float64)
        for start, stop in _chunks(*odds.shape):
            odds[start:stop] = _log_odds(self.logits[start:stop].double())
        return odds


@dataclass(frozen=True, eq=False, kw_only=True)
class MultiLabel:
    """Output of a multi-label classifier and the true labels."""

    targets: Tensor
    """bool (N, C)."""
    logits: Tensor
    """float64 (N, C)."""

    @classmethod
    def from_logits(cls, logits: Array | Tensor, targets: Array | Tensor) -> MultiLabel:
        """Return what the metrics need of logits (N, C) and 0/1 targets (N, C)."""
        return cls(targets=torch.as_tensor(targets) > 0, logits=torch.as_tensor(logits).double())


@dataclass(frozen=True, eq=False, kw_only=True)
class Regression:
    """Predicted and true values."""

    targets: Tensor
    """float64 (N, T)."""
    values: Tensor
    """float64 (N, T)."""

    @classmethod
    def from_values(cls, values: Array | Tensor, targets: Array | Tensor) -> Regression:
        """Return what the metrics need of predicted and true values, both (N,) or (N, T)."""
        y = torch.as_tensor(targets).double()
        return cls(
            targets=y.reshape(len(y), -1),
            values=torch.as_tensor(values).double().reshape(len(y), -1),
        )


Samples = SingleLabel | MultiLabel | Regression


def class_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the number of classes that rank above the true one, int64 (..., N).

    Of tied classes the lower number ranks above, as with argmax. NaN is never below anything, so a
    row of NaN ranks last.

    Args:
        logits: (..., N, C).
        labels: Class numbers (N,).
    """
    true_class = labels.expand(logits.shape[:-1])[..., None]
    true_logit = logits.gather(-1, true_class)
    later = torch.arange(logits.shape[-1], device=logits.device) >= true_class
    return (~((logits < true_logit) | ((logits == true_logit) & later))).sum(-1)


def to_probabilities(logits: Array, *, task: str) -> Array:
    """Return probabilities (N, C) float64 of logits: a softmax, or multi-label a sigmoid each."""
    values = torch.as_tensor(logits).double()
    return (values.sigmoid() if task == MULTI_LABEL else values.softmax(1)).numpy()


def summarize_logits(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the columns of `SingleLabel` that logits give, each (..., N).

    Args:
        logits: (..., N, C).
        labels: Class numbers (N,).
    """
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    true_class = labels.expand(logits.shape[:-1])[..., None]
    log_probs = logits.log_softmax(-1)
    probs = log_probs.exp()
    confidence, predicted = probs.max(-1).values, logits.argmax(-1)
    errors = probs.scatter_add(-1, true_class, -torch.ones_like(probs[..., :1]))
    return {
        "predicted": predicted,
        "ranks": class_ranks(logits, labels),
        "log_prob": log_probs.gather(-1, true_class)[..., 0],
        "confidence": confidence,
        "squared_error": errors.square().sum(-1),
    }


def _log_odds(logits: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of the softmax probabilities of logits (N, C).

    log p - log(1 - p) loses all digits where p is near 1, which can happen to the largest logit
    only: there it is the logit minus the logarithm of the sum over the other classes.
    """
    log_probs = logits.log_softmax(-1)
    odds = log_probs - torch.log1p(-log_probs.exp().clamp(max=0.5))
    top = logits.argmax(-1, keepdim=True)
    others = logits.scatter(-1, top, float("-inf")).logsumexp(-1, keepdim=True)
    return odds.scatter(-1, top, logits.gather(-1, top) - others)


def _chunks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of parts of the rows, at least one."""
    size = max(1, CHUNK_ELEMENTS // max(columns, 1))
    for start in range(0, max(rows, 1), size):
        yield start, min(start + size, rows)


def _as_int64(values: Array | Tensor) -> Tensor:
    return torch.as_tensor(values).to(torch.int64)
