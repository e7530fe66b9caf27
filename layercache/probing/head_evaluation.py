"""Evaluation of the selected head on each test set: outputs, metrics and leakage.

Shapes: N samples, S tokens, C classes, H attention heads.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from layercache.cache.cache import Cache
from layercache.cache.format.cache_spec import digest_ids
from layercache.errors import ProbeError
from layercache.probing.data.dataset import TokenDataset
from layercache.probing.data.leakage import find_leakage
from layercache.probing.data.loader import DatasetLoader
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.metrics import STORED, bootstrap, evaluate
from layercache.probing.results.predictions import Predictions
from layercache.probing.spec import ProbeSpec
from layercache.probing.splits.stratified_split import Rows
from layercache.probing.splits.test_sets import TestSet
from layercache.probing.targets.annotation_columns import read_groups
from layercache.probing.training.trainer import FittedModel

TEST_BATCH = 2048

Row = dict[str, Any]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class HeadTest:
    """Result of one test."""

    predictions: Predictions
    """Outputs and targets, with the mean attention."""
    row: Row
    """Columns of the results table; those of a further test set end in "@NAME"."""


def test_head(
    spec: ProbeSpec,
    model: FittedModel,
    loader: DatasetLoader,
    *,
    train: TokenDataset,
    train_rows: Rows,
) -> list[HeadTest]:
    """Test a head on the test split and on each further test set.

    Args:
        spec: The probe.
        model: Its head.
        loader: Source of the tokens.
        train: Dataset of the training split, and of the validation split if there is one.
        train_rows: Rows of `train` that trained the head.

    Raises:
        ProbeError: A test set has no samples.
    """
    train_groups = _groups(spec, spec.tokens.cache, train, spec.train_splits, loader=loader)
    _log_shared_validation(spec, loader, train, groups=train_groups)
    training = loader.digests(train)[train_rows]
    if train_groups is not None:
        train_groups = [train_groups[row] for row in train_rows.tolist()]
    tested = []
    first = TestSet(name=spec.test_split, split=spec.test_split)
    for test in (first, *spec.further_tests):
        dataset, predictions = _predict(spec, test, model, loader)
        leakage = find_leakage(
            loader.digests(dataset),
            training,
            groups=predictions.groups,
            training_groups=train_groups,
        )
        samples = test.name if test.cache else f"split {test.name}"
        if shared := leakage.describe(samples=samples, others="train"):
            loader.log_once(
                f"leakage: {shared}, so that its scores may be too high", level=logging.WARNING
            )
        row = evaluate_predictions(spec, predictions)
        row |= {
            "test_rows": len(predictions.targets),
            "test_rows_in_train": leakage.rows,
            "test_groups_in_train": leakage.groups,
        }
        if test is not first:
            row = {f"{name}@{test.name}": value for name, value in row.items()}
        tested.append(HeadTest(predictions, row))
    return tested


class _Moments:
    """Mean and standard deviation over images, summed in float64."""

    def __init__(self) -> None:
        self._n, self._sum, self._squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, values: torch.Tensor) -> None:
        """Add the values of some images, (B, ...)."""
        values = values.cpu().double()
        self._n += len(values)
        self._sum = self._sum + values.sum(0)
        self._squares = self._squares + values.square().sum(0)

    def mean(self) -> Array:
        """Return the mean, float32."""
        return np.asarray((self._sum / self._n).float().numpy())

    def std(self) -> Array:
        """Return the standard deviation, float32."""
        mean = self._sum / self._n
        variance = (self._squares / self._n - mean.square()).clamp_min(0)
        return np.asarray(variance.sqrt().float().numpy())


def _predict(
    spec: ProbeSpec, test: TestSet, model: FittedModel, loader: DatasetLoader
) -> tuple[TokenDataset, Predictions]:
    """Return the samples of a test, and the outputs of the head on them."""
    tokens = spec.tokens if test.cache is None else spec.tokens.of_cache(test.cache)
    split = loader.split(tokens.cache, test.split)
    if not split.rows:
        raise ProbeError(f"{tokens.cache.path}: split {test.split!r} has no samples to test on")
    target = test.target_of(spec.resolved_target)
    dataset = loader.test(tokens, test.split, target=target)
    rows = dataset.selection.kept_rows
    attentive = isinstance(model, FittedHead) and model.spec.has_attention
    fused = isinstance(model, FittedHead) and model.spec.kind == "fusion"
    parts, attention, gate = [], _Moments(), _Moments()
    for x, _ in dataset.iter_batches(np.arange(dataset.rows), batch_size=TEST_BATCH, train=False):
        parts.append(model.predict(x).cpu().numpy())
        if isinstance(model, FittedHead) and attentive:
            attention.add(model.attention(x))
        if isinstance(model, FittedHead) and fused:
            gate.add(model.gate(x))
    ids = [split.ids[row] for row in rows]
    groups = _groups(spec, tokens.cache, dataset, [test.split], loader=loader)
    return dataset, Predictions(
        logits=np.concatenate(parts).astype(np.float32),
        targets=target.values(split)[rows],
        ids=digest_ids(ids),
        sample_ids=tuple(ids),
        class_names=target.classes,
        groups=None if groups is None else tuple(groups),
        attention_mean=attention.mean() if attentive else None,
        attention_std=attention.std() if attentive else None,
        gate_mean=gate.mean() if fused else None,
        gate_std=gate.std() if fused else None,
    )


def _groups(
    spec: ProbeSpec,
    cache: Cache,
    dataset: TokenDataset,
    splits: Sequence[str],
    *,
    loader: DatasetLoader,
) -> list[str] | None:
    """Return the group of each row of a dataset; None if the probe or the cache has no groups."""
    column = spec.validation.group
    if column is None:
        return None
    groups = read_groups(cache, column, splits)
    if groups is None:
        loader.log_once(
            f"{cache.path} has no annotation {column!r}: whether groups are on both sides is not "
            "known",
            level=logging.WARNING,
        )
        return None
    return [groups[row] for row in dataset.selection.kept_rows.tolist()]


def _log_shared_validation(
    spec: ProbeSpec, loader: DatasetLoader, train: TokenDataset, *, groups: list[str] | None
) -> None:
    """Log what the validation split shares with the training split."""
    if spec.validation.split is None:
        return
    first = loader.split(spec.tokens.cache, spec.train_split).rows
    n_train = int(np.searchsorted(train.selection.kept_rows, first))
    digests = loader.digests(train)
    leakage = find_leakage(
        digests[n_train:],
        digests[:n_train],
        groups=None if groups is None else groups[n_train:],
        training_groups=None if groups is None else groups[:n_train],
    )
    if shared := leakage.describe(samples=f"split {spec.validation.split}", others="train"):
        loader.log_once(
            f"leakage: {shared}, so that it selects configurations that overfit",
            level=logging.WARNING,
        )


def stored_metrics(spec: ProbeSpec) -> list[str]:
    """Return the metrics in the row of a probe; those of other tasks are None."""
    return list(dict.fromkeys([*STORED, spec.selection_metric.name]))


def evaluate_predictions(spec: ProbeSpec, predictions: Predictions) -> Row:
    """Return the test metrics of a probe, with the bootstrap interval of its selection metric."""
    task, selected = spec.head_spec.task, spec.selection_metric.name
    outputs, targets = predictions.logits, predictions.targets
    metrics = evaluate(outputs, targets, task=task, select=selected)
    groups = None if predictions.groups is None else np.array(predictions.groups)
    low, high = bootstrap(outputs, targets, task=task, names=[selected], groups=groups)[selected]
    row = {f"test_{name}": metrics.get(name) for name in stored_metrics(spec)}
    return row | {"test_ci95_low": low, "test_ci95_high": high}
