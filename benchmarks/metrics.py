"""Processor seconds of the metrics and their bootstrap intervals, next to scikit-learn's.

    python benchmarks/metrics.py --rows 50000 --classes 1000 --resamples 1000

Logits are random, with the true class raised; scikit-learn computes what it can from the same ones.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn import metrics as reference

from layercache.probing.metrics import (
    CLASSIFICATION,
    bootstrap,
    compute,
    metrics_of,
    to_probabilities,
)

FAMILIES = {
    "classes": ["balanced_accuracy", "f1_macro", "f1_weighted", "cohen_kappa"],
    "probabilities": ["log_loss", "brier_score", "expected_calibration_error"],
    "ranking": ["roc_auc", "mean_average_precision"],
}
"""Metrics that are computed together."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-reference", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    y = rng.integers(0, options.classes, options.rows)
    logits = rng.normal(size=(options.rows, options.classes)).astype(np.float32)
    logits[np.arange(options.rows), y] += 3
    every = metrics_of(CLASSIFICATION)
    print(f"{options.rows} rows, {options.classes} classes, {options.threads} threads")
    ours = timed("all metrics", lambda: compute(logits, y, task=CLASSIFICATION, names=every))
    for name, names in FAMILIES.items():
        timed(
            f"interval of {name}, {options.resamples} resamples",
            lambda names=names: bootstrap(
                logits, y, task=CLASSIFICATION, names=names, resamples=options.resamples
            ),
        )
    if options.no_reference:
        return
    warnings.simplefilter("ignore")
    predicted, p = logits.argmax(1), to_probabilities(logits, task=CLASSIFICATION)
    classes = np.arange(options.classes)
    one_hot = np.eye(options.classes, dtype=np.int8)[y]
    theirs = {
        "balanced_accuracy": lambda: reference.balanced_accuracy_score(y, predicted),
        "f1_macro": lambda: reference.f1_score(y, predicted, average="macro"),
        "cohen_kappa": lambda: reference.cohen_kappa_score(y, predicted),
        "log_loss": lambda: reference.log_loss(y, p, labels=classes),
        "top5_accuracy": lambda: reference.top_k_accuracy_score(y, logits, k=5, labels=classes),
        "roc_auc": lambda: reference.roc_auc_score(one_hot, p, average="macro"),
        "mean_average_precision": lambda: reference.average_precision_score(one_hot, p),
    }
    for name, function in theirs.items():
        value = timed(f"scikit-learn: {name}", function)
        assert abs(value - ours[name]) < 1e-6, (name, value, ours[name])


def timed(name: str, function: Callable[[], Any]) -> Any:
    started = time.process_time()
    value = function()
    print(f"{name:50s} {time.process_time() - started:8.2f} s", flush=True)
    return value


if __name__ == "__main__":
    main()
