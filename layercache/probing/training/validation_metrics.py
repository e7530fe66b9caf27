"""Validation metrics of all configurations of a pass.

Shapes: B rows of a batch, C classes or columns of targets, G configurations, N rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from layercache.probing.heads.fusion import SHARE, SHARES, BatchedFusionHead
from layercache.probing.heads.spec import CLASSIFICATION, LAYERS, MULTI_LABEL, SPATIAL
from layercache.probing.metrics import (
    PRIMARY,
    Metric,
    MultiLabel,
    Regression,
    Samples,
    SingleLabel,
    evaluate_samples,
    find_metric,
    summarize_logits,
)
from layercache.probing.results.config_score import metrics_of_branch, name_for_branch
from layercache.probing.training.config_batch import ConfigBatch
from layercache.probing.training.token_loader import TokenLoader

LOSS_DIGITS = 3
"""Significant digits of the loss by which a share is chosen."""
MAX_OUTPUT_BYTES = 2**30
"""Memory for the outputs of the configurations that are evaluated together."""


def validate(
    batch: ConfigBatch,
    dataset: TokenLoader,
    rows: Tensor,
    *,
    batch_size: int,
    select: str | None = None,
) -> list[dict[str, float]]:
    """Return the metrics of every configuration.

    A fusion head is evaluated with every share of its spatial branch; the metrics are those of the
    chosen one (see `best_share`), and hold it as "spatial_share". With "layers_" and "spatial_"
    before their names they also hold the score and the loss of each branch alone.

    Of single-label logits a few numbers per sample are kept, (G, N), instead of all (G, N, C). For
    a metric that compares the logits of different samples all are kept, of as many configurations
    at a time as MAX_OUTPUT_BYTES allows.

    Args:
        batch: Configurations.
        dataset: Tokens and labels.
        rows: Rows to evaluate on, int64 (N,).
        batch_size: B.
        select: One more metric than the usual ones.
    """
    is_fusion = isinstance(batch.head, BatchedFusionHead)
    n_configs = len(batch.active) * (len(SHARES) if is_fusion else 1)
    single_label = batch.spec.task == CLASSIFICATION
    keep_outputs = not single_label or (select is not None and find_metric(select).ranks_samples)
    per_pass = n_configs
    if single_label and keep_outputs:
        per_pass = max(1, MAX_OUTPUT_BYTES // (4 * len(rows) * batch.spec.classes))
    metrics = []
    for first in range(0, n_configs, per_pass):
        samples = _evaluate(
            batch,
            dataset,
            rows,
            batch_size=batch_size,
            configs=slice(first, first + per_pass),
            keep_outputs=keep_outputs,
        )
        metrics += [evaluate_samples(s, task=batch.spec.task, select=select) for s in samples]
    if not is_fusion:
        return metrics
    metric = find_metric(select or PRIMARY[batch.spec.task])
    by_config = [metrics[first : first + len(SHARES)] for first in range(0, n_configs, len(SHARES))]
    return [
        best_share(by_share, metric=metric)
        | name_for_branch(_ranking_metrics(by_share[0], metric=metric), LAYERS)
        | name_for_branch(_ranking_metrics(by_share[-1], metric=metric), SPATIAL)
        for by_share in by_config
    ]


def best_share(by_share: Sequence[Mapping[str, float]], *, metric: Metric) -> dict[str, float]:
    """Return the metrics of the chosen share of a fusion head's spatial branch, and the share.

    Of the shares that score no less than the better branch alone, it is that of the lowest loss.
    The score itself would decide by chance between mixes of a few validation samples, while the
    loss alone prefers mixes that are less certain over branches that are right more often. A change
    of this rule increases FUSION_VERSION.

    Ties go to the higher score, then to the share that is closest to one half.

    Args:
        by_share: Metrics for each of SHARES.
        metric: Metric of the score; where it is not defined, a share is not chosen, unless it is
            defined for none.
    """
    scores = [metric.to_maximize(metrics) for metrics in by_share]
    floor = max(scores[0], scores[-1])

    def sort_key(i: int) -> tuple[float, ...]:
        return (_rounded_loss(by_share[i]), -scores[i], abs(SHARES[i] - 0.5))

    defined = [i for i, score in enumerate(scores) if score > -math.inf] or [*range(len(scores))]
    best = min((i for i in defined if scores[i] >= floor), key=sort_key)
    return {**by_share[best], SHARE: SHARES[best]}


def branch_score(
    metrics: Mapping[str, float], branch: str, *, metric: Metric
) -> tuple[float, float]:
    """Return the score of one branch of a fusion head and its negative loss; higher is better.

    Args:
        metrics: Metrics of the head, see `validate`.
        branch: LAYERS or SPATIAL.
        metric: Metric of the score.
    """
    of_branch = metrics_of_branch(metrics, branch)
    return metric.to_maximize(of_branch), -of_branch.get("log_loss", math.inf)


def _ranking_metrics(metrics: Mapping[str, float], *, metric: Metric) -> dict[str, float]:
    """Return the metrics that rank configurations, see `rank_configs`."""
    return {name: metrics[name] for name in (metric.name, "log_loss") if name in metrics}


def _rounded_loss(metrics: Mapping[str, float]) -> float:
    """Return the loss to LOSS_DIGITS, of a regression the root mean squared error."""
    loss = metrics.get("log_loss", metrics.get("rmse", math.inf))
    return float(f"{loss:.{LOSS_DIGITS - 1}e}")


def _evaluate(
    batch: ConfigBatch,
    dataset: TokenLoader,
    rows: Tensor,
    *,
    batch_size: int,
    configs: slice,
    keep_outputs: bool,
) -> list[Samples]:
    """Return what the metrics need of some configurations."""
    parts: list[list[dict[str, Tensor]]] = []
    labels = []
    for x, y in dataset.iter_batches(
        rows, batch_size=batch_size, seed=0, epoch=0, noise=None, train=False
    ):
        labels.append(y.cpu())
        outputs = (
            batch.logits_by_share(x).flatten(0, 1)
            if isinstance(batch.head, BatchedFusionHead)
            else batch.logits(x)
        )[configs]
        parts = parts or [[] for _ in outputs]
        for config_parts, output in zip(parts, outputs, strict=True):
            kept = {"logits": output} if keep_outputs else {}
            if batch.spec.task == CLASSIFICATION:
                kept |= summarize_logits(output, y)
            config_parts.append({name: values.cpu() for name, values in kept.items()})
    targets = torch.cat(labels)
    return [_samples(batch, config_parts, targets) for config_parts in parts]


def _samples(batch: ConfigBatch, parts: list[dict[str, Tensor]], targets: Tensor) -> Samples:
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if batch.spec.task == CLASSIFICATION:
        return SingleLabel(targets=targets, n_classes=batch.spec.classes, **columns)
    if batch.spec.task == MULTI_LABEL:
        return MultiLabel.from_logits(columns["logits"], targets)
    assert batch.standardization is not None
    values = batch.standardization.to("cpu").invert(columns["logits"])
    return Regression.from_values(values, targets)
