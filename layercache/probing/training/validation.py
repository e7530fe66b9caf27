"""Validation metrics of all configurations of a pass.

Shapes: B rows of a batch, C classes or columns of targets, G configurations, N rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layercache.probing.heads.spec import CLASSIFICATION, MULTI_LABEL
from layercache.probing.metrics import (
    MultiLabel,
    Regression,
    Samples,
    SingleLabel,
    evaluate_samples,
    summarize_logits,
)
from layercache.probing.training.config_batch import ConfigBatch
from layercache.probing.training.token_loader import TokenLoader


def validate(
    batch: ConfigBatch, dataset: TokenLoader, rows: Tensor, *, batch_size: int
) -> list[dict[str, float]]:
    """Return the metrics of every configuration.

    Of single-label logits a few numbers per sample are kept, (G, N), instead of all (G, N, C).

    Args:
        batch: Configurations.
        dataset: Tokens and labels.
        rows: Rows to evaluate on, int64 (N,).
        batch_size: B.
    """
    single_label = batch.spec.task == CLASSIFICATION
    parts: list[list[dict[str, Tensor]]] = [[] for _ in range(len(batch.active))]
    labels = []
    for x, y in dataset.iter_batches(
        rows, batch_size=batch_size, seed=0, epoch=0, noise=None, train=False
    ):
        labels.append(y.cpu())
        for config_parts, outputs in zip(parts, batch.logits(x), strict=True):
            kept = summarize_logits(outputs, y) if single_label else {"outputs": outputs}
            config_parts.append({name: values.cpu() for name, values in kept.items()})
    targets = torch.cat(labels)
    return [
        evaluate_samples(_samples(batch, config_parts, targets), task=batch.spec.task)
        for config_parts in parts
    ]


def _samples(batch: ConfigBatch, parts: list[dict[str, Tensor]], targets: Tensor) -> Samples:
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if batch.spec.task == CLASSIFICATION:
        return SingleLabel(targets=targets, n_classes=batch.spec.classes, **columns)
    if batch.spec.task == MULTI_LABEL:
        return MultiLabel.from_logits(columns["outputs"], targets)
    assert batch.standardization is not None
    values = batch.standardization.to("cpu").invert(columns["outputs"])
    return Regression.from_values(values, targets)
