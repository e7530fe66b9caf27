"""All metrics by name: what they are called in text, which tasks have them, which way is better.

Names are scikit-learn's where it has one; `Metric.higher_is_better` gives the direction.
Definitions: docs/metrics.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from layercache._units import join_words
from layercache.errors import OptionError, UnknownNameError
from layercache.probing.heads.spec import CLASSIFICATION, MULTI_LABEL, REGRESSION
from layercache.probing.metrics import classification, multi_label, regression
from layercache.probing.metrics.samples import SingleLabel

Family = Callable[[Any, Tensor], Mapping[str, Tensor]]
"""Function of samples and weights (N, R) that returns several metrics, each (R,)."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric."""

    name: str
    """Name in options, columns and files."""
    title: str
    """Name in text and headings."""
    families: Mapping[str, Family]
    """Task -> function that computes it together with others."""
    higher_is_better: bool = True
    """Direction of improvement."""
    short_title: str = ""
    """Name in headings of tables if it is another one."""
    percent: bool = True
    """It is shown in percent."""
    has_unit: bool = False
    """It has the unit of the targets."""
    ranks_samples: bool = False
    """It compares the outputs of different samples, and so needs all of them at a time."""

    @property
    def heading(self) -> str:
        """Name in headings of tables."""
        return self.short_title or self.title

    @property
    def sign(self) -> int:
        """1, or -1 where lower is better: `sign * value` is what selection maximizes."""
        return 1 if self.higher_is_better else -1

    def to_maximize(self, metrics: Mapping[str, float] | None) -> float:
        """Return what selection maximizes; minus infinity where the metric is not defined."""
        value = (metrics or {}).get(self.name, math.nan)
        return -math.inf if math.isnan(value) else self.sign * value


Families = Mapping[str, Family]

_COUNTS: Families = {
    CLASSIFICATION: classification.count_metrics,
    MULTI_LABEL: multi_label.count_metrics,
}
_SINGLE_COUNTS: Families = {CLASSIFICATION: classification.count_metrics}
_MULTI_COUNTS: Families = {MULTI_LABEL: multi_label.count_metrics}
_PROBABILITIES: Families = {
    CLASSIFICATION: classification.probability_metrics,
    MULTI_LABEL: multi_label.probability_metrics,
}
_RANKING: Families = {
    CLASSIFICATION: classification.ranking_metrics,
    MULTI_LABEL: multi_label.ranking_metrics,
}
_MICRO_RANKING: Families = {MULTI_LABEL: multi_label.micro_ranking_metrics}
_ERRORS: Families = {REGRESSION: regression.error_metrics}
_CORRELATION: Families = {REGRESSION: regression.rank_correlation}


def _top_k(k: int) -> Metric:
    def family(samples: SingleLabel, weights: Tensor) -> dict[str, Tensor]:
        return {f"top{k}_accuracy": classification.top_k(samples, weights, k=k)}

    return Metric(
        name=f"top{k}_accuracy",
        title=f"top-{k} accuracy",
        short_title=f"top-{k}",
        families={CLASSIFICATION: family},
    )


_score = partial(Metric, percent=False)
_error = partial(Metric, percent=False, higher_is_better=False)

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="balanced_accuracy", title="balanced accuracy", families=_SINGLE_COUNTS),
        _top_k(1),
        _top_k(5),
        Metric(
            name="mean_average_precision",
            title="mean average precision",
            short_title="mAP",
            families=_RANKING,
            ranks_samples=True,
        ),
        Metric(
            name="average_precision_micro",
            title="average precision (micro)",
            short_title="AP micro",
            families=_MICRO_RANKING,
            ranks_samples=True,
        ),
        Metric(name="f1_macro", title="F1 (macro)", short_title="F1 macro", families=_COUNTS),
        Metric(name="f1_micro", title="F1 (micro)", short_title="F1 micro", families=_MULTI_COUNTS),
        Metric(
            name="f1_weighted", title="F1 (weighted)", short_title="F1 weighted", families=_COUNTS
        ),
        Metric(name="roc_auc", title="AUROC", families=_RANKING, ranks_samples=True),
        Metric(
            name="roc_auc_micro",
            title="AUROC (micro)",
            short_title="AUROC micro",
            families=_MICRO_RANKING,
            ranks_samples=True,
        ),
        _score(name="cohen_kappa", title="Cohen's kappa", families=_SINGLE_COUNTS),
        _score(
            name="quadratic_weighted_kappa",
            title="quadratic weighted kappa",
            short_title="quadratic kappa",
            families=_SINGLE_COUNTS,
        ),
        _error(name="log_loss", title="log loss", families=_PROBABILITIES),
        _error(name="brier_score", title="Brier score", families=_PROBABILITIES),
        _error(
            name="expected_calibration_error",
            title="expected calibration error",
            short_title="ECE",
            families=_PROBABILITIES,
        ),
        _score(name="r2", title="R²", families=_ERRORS),
        _error(name="mae", title="MAE", has_unit=True, families=_ERRORS),
        _error(name="rmse", title="RMSE", has_unit=True, families=_ERRORS),
        _score(
            name="spearman",
            title="Spearman correlation",
            short_title="Spearman",
            families=_CORRELATION,
        ),
    )
}
"""Name -> metric; `find_metric` also has top-k accuracies of any k."""
ALIASES = {
    "accuracy": "top1_accuracy",
    "average_precision": "mean_average_precision",
    "auroc": "roc_auc",
    "ece": "expected_calibration_error",
    "mean_absolute_error": "mae",
    "root_mean_squared_error": "rmse",
}
"""Other spellings in options."""
COLUMN = re.compile("(?:val|test)_([^@]+)(?:@.+)?")
"""Column of the results table that may hold a metric, also of a further test set."""
PRIMARY: Mapping[str, str] = {
    CLASSIFICATION: "balanced_accuracy",
    MULTI_LABEL: "mean_average_precision",
    REGRESSION: "r2",
}
"""Task -> metric that selects configurations unless another one is chosen."""


def task_of(head_spec: Mapping[str, Any]) -> str:
    """Return the task of a stored probe from its `head_spec`."""
    if head_spec.get("regression"):
        return REGRESSION
    return MULTI_LABEL if head_spec["multi_label"] else CLASSIFICATION


def selection_metric(*, multi_label: bool) -> str:
    """Return the metric by which the configurations of a classifier are selected."""
    return PRIMARY[MULTI_LABEL if multi_label else CLASSIFICATION]


def selection_metric_of(spec: Mapping[str, Any]) -> Metric:
    """Return the metric by which the configurations of a stored probe were selected."""
    return find_metric(spec.get("select") or PRIMARY[task_of(spec["head_spec"])])


def find_metric(name: str) -> Metric:
    """Return the metric of a name or alias.

    Raises:
        UnknownNameError: There is none.
    """
    name = ALIASES.get(name, name)
    if name in METRICS:
        return METRICS[name]
    if match := classification.TOP_K.fullmatch(name):
        return _top_k(int(match[1]))
    raise UnknownNameError("metric", name, [*METRICS, *ALIASES])


def column_metric(column: str) -> Metric | None:
    """Return the metric in a column of the results table: that of "val_NAME" or "test_NAME"."""
    match = COLUMN.fullmatch(column)
    try:
        return find_metric(match[1]) if match and match[1] not in ALIASES else None
    except UnknownNameError:
        return None


def metrics_of(task: str) -> list[str]:
    """Return the names of all metrics of a task."""
    return [name for name, metric in METRICS.items() if task in metric.families]


def check_metric(name: str, *, task: str, option: str = "metric") -> Metric:
    """Return the metric of a name.

    Args:
        name: Name or alias.
        task: Task that it is to be computed for.
        option: Name of the option, for errors.

    Raises:
        UnknownNameError: There is no such metric.
        OptionError: The task has no such metric.
    """
    metric = find_metric(name)
    if task not in metric.families:
        raise OptionError(
            f"{option}: {metric.name} is not a metric of {task}; expected "
            f"one of {join_words(metrics_of(task))}"
        )
    return metric


def parse_metrics(names: str | Iterable[str]) -> list[str]:
    """Return the names of metrics, each once, from "a,b" or a list of names and aliases.

    Raises:
        OptionError: There is no name.
        UnknownNameError: There is no metric of a name.
    """
    words = names.split(",") if isinstance(names, str) else [*names]
    metrics = [find_metric(word.strip()).name for word in words if word.strip()]
    if not metrics:
        raise OptionError(f"metrics: expected names such as roc_auc,f1_macro, got {names!r}")
    return list(dict.fromkeys(metrics))
