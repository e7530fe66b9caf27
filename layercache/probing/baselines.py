"""Baselines of scikit-learn on the same tokens: k nearest neighbors and logistic regression.

Shapes: N samples, S tokens, D width, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from layercache._devices import free_memory
from layercache._units import format_bytes
from layercache.errors import OptionError, ProbeError
from layercache.probing.config_score import ConfigScore
from layercache.probing.data.dataset import LabelledTokens
from layercache.probing.data.splits import Rows
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.metrics import evaluate
from layercache.probing.options import MEMORY_FRACTION
from layercache.probing.training.trainer import FittedModel, ProgressCallback, ScoreCallback

GRIDS: Mapping[str, tuple[Mapping[str, float], ...]] = {
    "knn": tuple({"k": k} for k in (1, 5, 10, 20, 50)),
    "logreg": tuple({"C": c} for c in (1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4)),
}
"""Configurations to search, in order.

C is the inverse strength of the L2 penalty: tokens have unit length, so useful values are high.
"""
MAX_ITERATIONS = 1000
MIN_PROB = 1e-12
"""Lower bound of a probability before its logarithm."""
TIE_STEP = 1e-5
"""Difference of the logarithms of two equal vote shares: smaller than that of two unequal ones."""
DISTANCES_MIB = 256
"""Distances between samples that are in memory at a time."""
ABSENT_CLASS_LOGIT = -1e4
"""Logit of a class without training samples."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class NeighborClassifier:
    """A fitted nearest-neighbor classifier."""

    log_probabilities: Callable[[Array], Array]
    """(N, S*D) normalized tokens to (N, C) logarithms of the share of votes, see `_knn`."""

    diverged = False

    def predict(self, tokens: torch.Tensor | Array) -> torch.Tensor:
        """Return the log of each class's vote share (B, C), from normalized tokens (B, S, D)."""
        x = torch.as_tensor(tokens).flatten(1).cpu().numpy()
        return torch.from_numpy(self.log_probabilities(x))


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineTrainer:
    """Trains one of the two baselines, see `ProbeTrainer`."""

    name: str
    """knn or logreg."""
    head: HeadSpec
    """A linear head on the same tokens."""
    seed: int
    """Recorded in the head; the baselines draw nothing at random."""
    on_progress: ProgressCallback | None
    """Called after every configuration."""

    def score(
        self,
        dataset: LabelledTokens,
        configs: Sequence[Mapping[str, float]],
        *,
        train: Rows,
        val: Rows,
        fold: int,
        on_scores: ScoreCallback,
    ) -> None:
        """See ProbeTrainer. Trains one classifier after another."""
        x, y = _matrix(dataset, train)
        x_val, y_val = _matrix(dataset, val)
        for i, hparams in enumerate(configs):
            logits = self._classifier(hparams, x, y)(x_val)
            metrics = evaluate(logits, y_val, task=self.head.task)
            on_scores([ConfigScore(hparams=hparams, fold=fold, val_metrics=metrics)])
            if self.on_progress:
                self.on_progress(i + 1, len(configs))

    def train(
        self,
        dataset: LabelledTokens,
        hparams: Mapping[str, float],
        *,
        rows: Rows,
        epochs: int | None,
    ) -> FittedModel:
        """See ProbeTrainer. Returns a logistic regression as the linear head that it is."""
        x, y = _matrix(dataset, rows)
        if self.name == "knn":
            return NeighborClassifier(self._knn(int(hparams["k"]), x, y))
        weight, bias, converged = self._logreg(hparams["C"], x, y)
        return FittedHead(
            spec=self.head,
            state_dict={
                "classifier.weight": torch.from_numpy(weight).float(),
                "classifier.bias": torch.from_numpy(bias).float(),
            },
            hparams=hparams,
            seed=self.seed,
            converged=converged,
        )

    def _classifier(
        self, hparams: Mapping[str, float], x: Array, y: Array
    ) -> Callable[[Array], Array]:
        if self.name == "knn":
            return self._knn(int(hparams["k"]), x, y)
        weight, bias, _ = self._logreg(hparams["C"], x, y)
        return lambda other: np.asarray(other @ weight.T + bias)

    def _knn(self, k: int, x: Array, y: Array) -> Callable[[Array], Array]:
        """Return a function from tokens (N, S*D) to the log of the vote shares (N, C).

        If there are fewer than k samples, all of them vote. The Euclidean distance ranks tokens
        of unit length as the cosine does. Of classes with equally many votes, also none, the one
        with the nearest sample ranks first, so that no metric depends on the numbers of the
        classes; its value is larger by TIE_STEP, without votes by 1.
        """
        from sklearn.neighbors import KNeighborsClassifier

        model = KNeighborsClassifier(n_neighbors=min(k, len(x)), algorithm="brute").fit(x, y)

        def log_shares(other: Array) -> Array:
            votes = model.predict_proba(other)
            if self.head.multi_label:
                # a list over classes of (N, values that occurred): the last column is "present" if
                # 1 occurred
                shares = np.stack(
                    [
                        p[:, -1] * float(values[-1])
                        for p, values in zip(votes, model.classes_, strict=True)
                    ],
                    axis=1,
                )
            else:
                shares = np.zeros((len(other), self.head.classes))
                shares[:, model.classes_] = votes
            logs = np.log(np.maximum(shares, MIN_PROB))
            if not self.head.multi_label:  # average precision does not depend on the order of ties
                nearest = np.full(shares.shape, np.inf)
                nearest[:, model.classes_] = _class_distances(other, x, y)
                logs -= _ranks_among_ties(shares, nearest) * np.where(shares > 0, TIE_STEP, 1.0)
            return np.asarray(logs, dtype=np.float32)

        return log_shares

    def _logreg(self, c: float, x: Array, y: Array) -> tuple[Array, Array, bool]:
        """Return (weight (C, S*D), bias (C,), whether the solver converged).

        Classes are weighted as those of the heads are: N / (C n_c) is scikit-learn's "balanced".
        """
        weight = np.zeros((self.head.classes, x.shape[1]))
        bias = np.full(self.head.classes, ABSENT_CLASS_LOGIT)
        if self.head.multi_label:
            all_converged = True
            for label in range(self.head.classes):
                if y[:, label].min() == y[:, label].max():
                    bias[label] = -ABSENT_CLASS_LOGIT if y[0, label] else ABSENT_CLASS_LOGIT
                    continue
                model, converged = _solve(c, x, y[:, label], class_weight=None)
                weight[label], bias[label] = model.coef_[0], model.intercept_[0]
                all_converged &= converged
            return weight, bias, all_converged
        model, converged = _solve(c, x, y, class_weight="balanced")
        coefficients, intercepts, classes = model.coef_, model.intercept_, model.classes_
        if len(classes) == 2:
            # one row of coefficients for two classes: the second against the first, whose logit is
            # then 0
            coefficients = np.vstack([np.zeros_like(coefficients), coefficients])
            intercepts = np.append(0.0, intercepts)
        weight[classes], bias[classes] = coefficients, intercepts
        return weight, bias, converged


def _class_distances(x: Array, train: Array, y: Array) -> Array:
    """Return the distance of each row of `x` to the nearest sample of each class that occurs.

    Args:
        x: (N, S*D).
        train: Training samples, (M, S*D).
        y: Their classes, (M,).

    Returns:
        (N, number of classes that occur), classes ascending.
    """
    from sklearn.metrics import pairwise_distances_chunked

    order = np.argsort(y, kind="stable")
    starts = np.flatnonzero(np.diff(y[order], prepend=-1))
    chunks = pairwise_distances_chunked(
        x,
        train,
        reduce_func=lambda distances, _: np.minimum.reduceat(distances[:, order], starts, axis=1),
        working_memory=DISTANCES_MIB,
    )
    return np.concatenate(list(chunks))


def _ranks_among_ties(shares: Array, distances: Array) -> Array:
    """Return how many classes of the same share are nearer, (N, C), from two arrays (N, C)."""
    order = np.lexsort((distances, -shares), axis=1)
    ordered = np.take_along_axis(shares, order, axis=1)
    positions = np.broadcast_to(np.arange(shares.shape[1]), shares.shape)
    is_first = np.diff(ordered, axis=1, prepend=np.inf) != 0
    first = np.maximum.accumulate(np.where(is_first, positions, 0), axis=1)
    ranks = np.empty(shares.shape)
    np.put_along_axis(ranks, order, positions - first, axis=1)
    return ranks


def _solve(c: float, x: Array, y: Array, *, class_weight: str | None) -> tuple[Any, bool]:
    """Return a fitted LogisticRegression and whether it converged within MAX_ITERATIONS."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model = LogisticRegression(C=c, class_weight=class_weight, max_iter=MAX_ITERATIONS)
        model.fit(x, y)
    converged = True
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            converged = False
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return model, converged


def _matrix(dataset: LabelledTokens, rows: Rows) -> tuple[Array, Array]:
    """Return tokens (N, S*D), float32, and labels, all in memory, as scikit-learn needs them."""
    needed = len(rows) * dataset.tokens * dataset.width * 4
    available = int(MEMORY_FRACTION * free_memory(torch.device("cpu")))
    if needed > available:
        raise OptionError(
            f"scikit-learn needs all tokens at once: {len(rows)} samples x {dataset.tokens} x "
            f"{dataset.width} in float32 are {format_bytes(needed)}, half of the free memory is "
            f"{format_bytes(available)}: choose fewer layers or a train_fraction (--fraction)"
        )
    if not len(rows):
        raise ProbeError("there are no samples to train on")
    x = np.empty((len(rows), dataset.tokens * dataset.width), dtype=np.float32)
    start = 0
    for tokens, _ in dataset.iter_batches(rows, batch_size=4096, train=False):
        x[start : start + len(tokens)] = tokens.flatten(1).cpu().numpy()
        start += len(tokens)
    return x, dataset.labels.cpu().numpy()[rows]
