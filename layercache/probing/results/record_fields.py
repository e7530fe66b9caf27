"""Types and ranges of the fields of probe.json, which may come from anyone.

Only what the readers of a probe rely on is checked: a field that is missing, of another type or out
of range is an error that names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Interval, Len, MaxLen, MinLen, Predicate

from layercache.cache.format.typed_json import parse_fields, shorten
from layercache.probing.metrics import column_metric
from layercache.probing.results.config_score import ConfigScore

STRICT: Any = {"strict": True, "allow_inf_nan": False}
"""Value of `__pydantic_config__`: no conversions, further fields are left alone."""
MAX_INT = 2**63 - 1
Size = Annotated[int, Interval(ge=0, le=2**40)]
Integer = Annotated[int, Interval(ge=-MAX_INT, le=MAX_INT)]
MAX_CHARS = 10_000
Text = Annotated[str, MaxLen(MAX_CHARS)]
Fraction = Annotated[float, Interval(ge=0, le=1)]

# fmt: off
TEXT = (
    "probe", "model", "dataset", "head", "layers", "tokens", "spatial", "join", "config",
    "empty_classes", "device", "precision", "features", "tap", "fingerprint", "gate",
)
INTEGERS = (
    "seed", "shots", "n_tokens", "num_heads", "n_params", "epochs", "batch_size", "steps",
    "n_configs", "n_diverged", "n_folds", "train_rows", "val_rows", "test_rows",
    "test_rows_in_train", "test_groups_in_train",
)
FLAGS = ("embedding", "converged")
FRACTIONS = ("train_fraction", "spatial_share")
BOUNDS = ("test_ci95_low", "test_ci95_high")
NUMBERS = ("lr", "weight_decay", "dropout", "train_seconds")
OPTIONAL = {
    "shots", "train_fraction", "precision", "epochs", "batch_size", "steps", "converged", "lr",
    "weight_decay", "dropout", "spatial_share", "test_groups_in_train",
}
"""Columns that may be None; scores and their bounds may be, too."""
REQUIRED = (
    "model", "dataset", "head", "layers", "tokens", "spatial", "n_tokens", "num_heads", "seed",
    "shots", "train_fraction", "test_balanced_accuracy", "test_mean_average_precision",
)
"""Columns that are read without asking whether they exist."""
# fmt: on


@dataclass(frozen=True)
class _Extraction:
    __pydantic_config__ = STRICT

    weights: Text
    dataset: Text


@dataclass(frozen=True)
class _Source:
    __pydantic_config__ = STRICT

    fingerprint: Text
    extraction: _Extraction
    pairs: Annotated[tuple[tuple[Annotated[int, Interval(ge=1, le=10_000)], Text], ...], MinLen(1)]


@dataclass(frozen=True)
class _HeadSpec:
    __pydantic_config__ = STRICT

    kind: Text
    tokens: Size
    width: Size
    classes: Size
    num_heads: Size
    multi_label: bool
    regression: bool = False


@dataclass(frozen=True)
class _Noise:
    __pydantic_config__ = STRICT

    std: float
    probability: Fraction


@dataclass(frozen=True)
class _TrainConfig:
    __pydantic_config__ = STRICT

    noise: _Noise | None
    clip: float | None
    class_weights: bool


@dataclass(frozen=True)
class _ProbeTarget:
    __pydantic_config__ = STRICT

    columns: Annotated[tuple[Text, ...], MinLen(1)]
    task: Text


@dataclass(frozen=True)
class _TestSet:
    __pydantic_config__ = STRICT

    name: Text
    split: Text
    fingerprint: Text | None = None
    extraction: dict[Text, Any] | None = None
    annotations: dict[Text, Text] | None = None


@dataclass(frozen=True)
class _Member:
    __pydantic_config__ = STRICT

    probe: Annotated[str, Len(12, 12), Predicate(str.isalnum)]
    experiment: Text
    seed_offset: Integer


@dataclass(frozen=True)
class _Ensemble:
    __pydantic_config__ = STRICT

    members: Annotated[tuple[_Member, ...], MinLen(2)]


@dataclass(frozen=True)
class _Spec:
    __pydantic_config__ = STRICT

    schema: Integer
    sources: Annotated[tuple[_Source, ...], MinLen(1)]
    head: Text
    head_spec: _HeadSpec
    grid: Annotated[tuple[dict[Text, float], ...], MinLen(1)]
    seed: Integer
    shots: Integer | None
    train_fraction: Fraction | None
    train_config: _TrainConfig | None
    precision: Text | None
    splits: tuple[Text, Text]
    target: _ProbeTarget | None = None
    annotations: dict[Text, Text] | None = None
    tests: tuple[_TestSet, ...] = ()
    validation: dict[Text, Text | Integer] = field(default_factory=dict)
    ensemble: _Ensemble | None = None
    search: Text = "full"


@dataclass(frozen=True)
class _Score:
    __pydantic_config__ = STRICT

    hparams: dict[Text, float]
    fold: Integer | None
    val_metrics: dict[Text, float | None] | None
    diverged: bool
    epochs: Size | None
    stop_epoch: Size | None = None


def check_spec(spec: Any) -> None:
    """Raise ValueError, with the field's name, if a value of a probe's spec cannot be."""
    parsed = _parse(_Spec, spec, "spec")
    needed = ("lr", "weight_decay", "dropout") if parsed.train_config is not None else ()
    for i, hparams in enumerate(parsed.grid):
        if missing := [name for name in needed if name not in hparams]:
            raise ValueError(f"spec.grid.{i}.{missing[0]}: expected, but missing")
    if parsed.train_config is not None and parsed.precision is None:
        raise ValueError("spec.precision: expected text, got None")
    # the settings of an identity are words: no value is nested deeper than this
    for i, source in enumerate(spec["sources"]):
        _check_scalars(source["extraction"], f"spec.sources.{i}.extraction")
    selected = spec.get("select")
    if selected is not None and ("@" in selected or column_metric(f"test_{selected}") is None):
        raise ValueError(f"spec.select: expected a metric, got {shorten(spec['select'])}")


def check_row(row: Any) -> None:
    """Raise ValueError, with the column's name, if a value of a probe's row cannot be."""
    _parse(dict[Text, Any], row, "row")
    _check_scalars(row, "row")
    for name in REQUIRED:
        if name not in row:
            raise ValueError(f"row.{name}: expected, but missing")
    for name, value in row.items():
        base = name.partition("@")[0]  # a further test set follows
        expected = _expected(base, value)
        optional = base in OPTIONAL or base in BOUNDS or column_metric(base) is not None
        if expected and not (value is None and optional):
            raise ValueError(f"row.{name}: expected {expected}, got {shorten(value)}")


def read_configs(configs: Any) -> tuple[ConfigScore, ...]:
    """Return the scores of configurations. Raises ValueError if a value cannot be."""
    _parse(tuple[_Score, ...], configs, "configs")
    try:
        return tuple(ConfigScore(**score) for score in configs)
    except TypeError as error:  # a field that this version does not know
        raise ValueError(f"configs: expected other fields ({error})") from None


def read_time(value: Any) -> float:
    """Return seconds since the epoch. Raises ValueError if it is none."""
    if type(value) not in (int, float) or not 0 <= value <= MAX_INT:
        raise ValueError(f"written_at: expected seconds since 1970, got {shorten(value)}")
    return float(value)


def _check_scalars(values: Mapping[str, Any], field: str) -> None:
    """Raise ValueError unless all values are text, finite numbers, true, false or None."""
    for name, value in values.items():
        if isinstance(value, list | dict):
            raise ValueError(f"{field}.{name}: expected one value, got {shorten(value)}")
        if isinstance(value, str) and len(value) > MAX_CHARS:
            raise ValueError(f"{field}.{name}: expected at most {MAX_CHARS} characters")
        too_large = isinstance(value, int) and abs(value) > MAX_INT
        if too_large or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{field}.{name}: expected a number, got {shorten(value)}")


def _expected(name: str, value: Any) -> str | None:
    """Return what a column holds if this value is none of it."""
    number = type(value) in (int, float)
    if name in TEXT:
        return None if isinstance(value, str) else "text"
    if name in INTEGERS:
        return None if type(value) is int else "an integer"
    if name in FLAGS:
        return None if isinstance(value, bool) else "true or false"
    metric = column_metric(name)
    if name in FRACTIONS or (metric is not None and metric.percent):
        return None if number and 0 <= value <= 1 else "a number from 0 to 1"
    if name in BOUNDS or metric is not None:
        return None if number else "a number"
    if name in NUMBERS:
        return None if number and value >= 0 else "a number of at least 0"
    return None


def _parse(kind: Any, value: Any, field: str) -> Any:
    try:
        return parse_fields(kind, value)
    except ValueError as error:
        raise ValueError(f"{field}.{error}") from None
