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
    "probe", "model", "dataset", "head", "layers", "tokens", "spatial", "config", "empty_classes",
    "device", "precision", "features", "tap", "fingerprint",
)
INTEGERS = (
    "seed", "shots", "n_tokens", "num_heads", "n_params", "epochs", "batch_size", "steps",
    "n_configs", "n_diverged", "n_folds", "train_rows", "val_rows", "test_rows",
    "test_rows_in_train", "test_groups_in_train",
)
FLAGS = ("embedding", "converged")
FRACTIONS = ("train_fraction",)
BOUNDS = ("test_ci95_low", "test_ci95_high")
NUMBERS = ("lr", "weight_decay", "dropout", "train_seconds")
OPTIONAL = {
    "shots", "train_fraction", "precision", "epochs", "batch_size", "steps", "converged", "lr",
    "weight_decay", "dropout", "test_groups_in_train",
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
    search: Text = "full"
