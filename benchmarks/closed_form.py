"""Measure the heads without epochs against scikit-learn, one setting after another.

All settings of a head's grid are fitted to the same random tokens with a weak class signal and
applied to as many held-out ones, by the functions of `layercache.probing.closed_form` together and
by scikit-learn one by one. Times are processor time, to which other load can only add.

    python benchmarks/closed_form.py [--rows 2000 --width 768 --classes 10]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from machine import describe
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

from layercache.probing.baselines.grids import INVERSE_PENALTIES, NEIGHBORS, PENALTIES, SHRINKAGES
from layercache.probing.closed_form.lda import lda
from layercache.probing.closed_form.logistic import multinomial
from layercache.probing.closed_form.neighbors import Neighbors
from layercache.probing.closed_form.ridge import ridge
from layercache.probing.closed_form.targets import balanced_weights, one_hot


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor time of a call and its result."""
    began = time.process_time()
    result = function()
    return time.process_time() - began, result


def one_by_one(make: Callable[[float], Any], values: Any, data: Any) -> list[Any]:
    """Return the classes that scikit-learn predicts with each setting, and its models."""
    x, y, other = data
    models = [make(value).fit(x, y) for value in values]
    return [(model.predict(other), model) for model in models]


def mean_loss(weight: Any, bias: Any, c: float, data: Any) -> float:
    """Return the objective of a logistic regression with balanced classes, over its rows."""
    x, y, _ = (torch.as_tensor(part) for part in data)
    logits = x.double() @ torch.as_tensor(weight).double().t() + torch.as_tensor(bias).double()
    weights = balanced_weights(y, logits.shape[1])
    losses = -logits.log_softmax(1).gather(1, y[:, None])[:, 0]
    penalty = torch.as_tensor(weight).double().square().sum() / (2 * c)
    return float((weights @ losses + penalty) / len(y))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=10)
    args = parser.parse_args()
    print(f"{describe()}; {torch.get_num_threads()} threads")
    generator = np.random.default_rng(0)
    spectrum = np.logspace(0, -1.5, args.width)
    centers = 0.3 * generator.standard_normal((args.classes, args.width))
    y_all = generator.integers(0, args.classes, 2 * args.rows)
    x_all = (generator.standard_normal((2 * args.rows, args.width)) + centers[y_all]) * spectrum + 1
    x_all /= np.linalg.norm(x_all, axis=1, keepdims=True)
    x_all = x_all.astype(np.float32)
    data = x_all[: args.rows], y_all[: args.rows], x_all[args.rows :]
    x, y, other = (torch.from_numpy(part) for part in data)
    weights, targets = balanced_weights(y, args.classes), one_hot(y, args.classes)
    uniform = np.full(args.classes, 1 / args.classes)

    def fit_logistic() -> Any:
        return multinomial(
            x, y, args.classes, inverse_penalties=INVERSE_PENALTIES, sample_weight=weights
        )

    heads: dict[str, tuple[Any, Any, Any]] = {
        "ridge": (
            lambda: list(ridge(x, targets, sample_weight=weights).predict(other, PENALTIES)),
            lambda a: RidgeClassifier(a, class_weight="balanced"),
            PENALTIES,
        ),
        "lda": (
            lambda: list(lda(x, y, args.classes, sample_weight=weights).predict(other, SHRINKAGES)),
            lambda s: LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s, priors=uniform),
            SHRINKAGES,
        ),
        "knn": (
            lambda: Neighbors.of(x, y, args.classes).votes(other, [(k, None) for k in NEIGHBORS])[
                0
            ],
            lambda k: KNeighborsClassifier(int(k), metric="cosine"),
            NEIGHBORS,
        ),
        "logreg": (
            fit_logistic,
            lambda c: LogisticRegression(C=c, class_weight="balanced", max_iter=1000),
            INVERSE_PENALTIES,
        ),
    }
    print(f"{args.rows} x {args.width}, {args.classes} classes\n")
    print("| head | settings | together (s) | scikit-learn (s) | ratio | same predictions (%) |")
    print("|---|---|---|---|---|---|")
    losses = []
    for name, (together, make, values) in heads.items():
        ours, outputs = seconds(together)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            theirs, alone = seconds(lambda make=make, values=values: one_by_one(make, values, data))
        if name == "logreg":
            fitted = outputs
            losses = [
                (
                    c,
                    mean_loss(fitted.weight[i], fitted.bias[i], c, data),
                    mean_loss(alone[i][1].coef_, alone[i][1].intercept_, c, data),
                )
                for i, c in enumerate(values)
            ]
            outputs = [
                other.double() @ w.t() + b for w, b in zip(fitted.weight, fitted.bias, strict=True)
            ]
        same = np.mean(
            [(o.argmax(1).numpy() == p).mean() for o, (p, _) in zip(outputs, alone, strict=True)]
        )
        print(
            f"| {name} | {len(values)} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.1f} "
            f"| {100 * same:.2f} |",
            flush=True,
        )
    print("\n| C | objective of logreg, together | scikit-learn |\n|---|---|---|")
    for c, ours, theirs in losses:
        print(f"| {c:g} | {ours:.6f} | {theirs:.6f} |")


if __name__ == "__main__":
    main()
