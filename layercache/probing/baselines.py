"""Baselines of scikit-learn on the same normalised tokens, side by side: k nearest neighbours and logistic regression.

Shapes: N samples, S tokens, D width, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from layercache.errors import OptionError, ProbeError
from layercache.probing.budget import SHARE, format_bytes, free_memory
from layercache.probing.data.resident import TokenDataset
from layercache.probing.data.splits import Rows
from layercache.probing.heads import HeadSpec
from layercache.probing.metrics import evaluate
from layercache.probing.training.trainer import ConfigScore, Keep, Trained

GRIDS: Mapping[str, tuple[Mapping[str, float], ...]] = {
    "knn": tuple({"k": k} for k in (1, 5, 10, 20, 50)),
    "logreg": tuple({"C": c} for c in (1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4)),
}
"""Settings that are tried, in order. C is the inverse strength of the L2 penalty: tokens have unit length, so useful values lie high."""
ITERATIONS = 1000
LOWEST = 1e-12
ABSENT = -1e4
"""Logit of a class that no training sample has."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """One of the two, behind the same functions as gradient descent (methods.Method)."""

    name: str
    """knn or logreg."""
    shape: HeadSpec
    """A linear head on the same tokens."""
    progress: Callable[[int, int], None] | None
    """Called after every setting."""

    def score(
        self,
        features: TokenDataset,
        settings: Sequence[Mapping[str, float]],
        *,
        train: Rows,
        val: Rows,
        fold: int,
        keep: Keep,
    ) -> None:
        """One classifier after another."""
        x, y = _matrix(features, train)
        x_val, y_val = _matrix(features, val)
        for i, setting in enumerate(settings):
            said = self._classifier(setting, x, y)(x_val)
            metrics = evaluate(said, y_val, multi_label=self.shape.multi_label)
            keep(
                [ConfigScore(setting=setting, fold=fold, val=metrics, diverged=False, epochs=None)]
            )
            if self.progress:
                self.progress(i + 1, len(settings))

    def train(
        self,
        features: TokenDataset,
        setting: Mapping[str, float],
        *,
        rows: Rows,
        epochs: int | None,
    ) -> Trained:
        """The classifier of one setting; a logistic regression is handed back as the linear head that it is."""
        x, y = _matrix(features, rows)
        if self.name == "logreg":
            weight, bias = self._logreg(setting["C"], x, y)
            parameters = {
                "classifier.weight": torch.from_numpy(weight).float(),
                "classifier.bias": torch.from_numpy(bias).float(),
            }
            return Trained(parameters=parameters, shape=self.shape, logits=None)
        said = self._classifier(setting, x, y)
        return Trained(
            parameters=None, shape=None, logits=lambda tokens: said(tokens.flatten(1).cpu().numpy())
        )

    def _classifier(
        self, setting: Mapping[str, float], x: Array, y: Array
    ) -> Callable[[Array], Array]:
        if self.name == "knn":
            return self._knn(int(setting["k"]), x, y)
        weight, bias = self._logreg(setting["C"], x, y)
        return lambda other: np.asarray(other @ weight.T + bias)

    def _knn(self, k: int, x: Array, y: Array) -> Callable[[Array], Array]:
        """Votes of the k nearest by Euclidean distance, which on tokens of unit length ranks as the cosine does; never more than all of them."""
        from sklearn.neighbors import KNeighborsClassifier

        model = KNeighborsClassifier(n_neighbors=min(k, len(x)), algorithm="brute").fit(x, y)

        def votes(other: Array) -> Array:
            found = model.predict_proba(other)
            if self.shape.multi_label:
                # a list over classes of (N, values that occurred): the last column is "present" where 1 occurred
                share = np.stack(
                    [
                        p[:, -1] * float(values[-1])
                        for p, values in zip(found, model.classes_, strict=True)
                    ],
                    axis=1,
                )
            else:
                share = np.zeros((len(other), self.shape.classes))
                share[:, model.classes_] = found
            return np.asarray(np.log(np.maximum(share, LOWEST)), dtype=np.float32)

        return votes

    def _logreg(self, c: float, x: Array, y: Array) -> tuple[Array, Array]:
        """(weight (C, S*D), bias (C,)), classes weighted as the heads' are (N / (C n_c) is scikit-learn's "balanced")."""
        weight, bias = (
            np.zeros((self.shape.classes, x.shape[1])),
            np.full(self.shape.classes, ABSENT),
        )
        if self.shape.multi_label:
            for label in range(self.shape.classes):
                if y[:, label].min() == y[:, label].max():
                    bias[label] = -ABSENT if y[0, label] else ABSENT
                else:
                    weight[label], bias[label] = (
                        part[0] for part in _solve(c, x, y[:, label], weights=None)[:2]
                    )
            return weight, bias
        coefficients, intercepts, classes = _solve(c, x, y, weights="balanced")
        if len(classes) == 2:
            # two classes have one row of coefficients: the second class against the first, whose logit is then 0
            coefficients, intercepts = (
                np.vstack([np.zeros_like(coefficients), coefficients]),
                np.append(0.0, intercepts),
            )
        weight[classes], bias[classes] = coefficients, intercepts
        return weight, bias


def _solve(c: float, x: Array, y: Array, *, weights: str | None) -> tuple[Array, Array, Array]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # after 1000 iterations of L-BFGS the validation score decides whether the setting is any good
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=c, class_weight=weights, max_iter=ITERATIONS).fit(x, y)
    return model.coef_, model.intercept_, model.classes_


def _matrix(features: TokenDataset, rows: Rows) -> tuple[Array, Array]:
    """(N, S*D) float32 and labels. Raises OptionError where the matrix would not fit in memory, since scikit-learn has to hold all of it."""
    need = len(rows) * features.tokens * features.width * 4
    room = int(SHARE * free_memory(torch.device("cpu")))
    if need > room:
        raise OptionError(
            f"scikit-learn needs all tokens at once: {len(rows)} samples x {features.tokens} x {features.width} in float32 are {format_bytes(need)}, "
            f"half of the free memory is {format_bytes(room)}: choose fewer layers or --fraction"
        )
    if not len(rows):
        raise ProbeError("there are no samples to train on")
    x = np.empty((len(rows), features.tokens * features.width), dtype=np.float32)
    at = 0
    for tokens, _ in features.epoch(rows, batch=4096, train=False):
        x[at : at + len(tokens)] = tokens.flatten(1).cpu().numpy()
        at += len(tokens)
    return x, features.labels.cpu().numpy()[rows]
