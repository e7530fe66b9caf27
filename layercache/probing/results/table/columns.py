"""Columns of the results table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from layercache.probing.metrics import (
    REGRESSION,
    STANDARD,
    STORED,
    column_metric,
    selection_metric_of,
    task_of,
)
from layercache.probing.results.identity import target_name
from layercache.probing.results.probe_store import Probe

# fmt: off
SCORES = tuple(f"{part}_{name}" for part in ("val", "test") for name in STORED)
"""Columns of the metrics that every probe of a task stores."""
COLUMNS = (
    "probe", "model", "dataset", "head", "layers", "tokens", "spatial", "n_tokens", "num_heads",
    "embedding", "gate", "join", "target", "train_split", "val_split", "folds", "repeats",
    "group", "fold_column", "refit", "test_split", "further_tests", "seed", "shots",
    "train_fraction", "search", "lr", "weight_decay", "dropout", "spatial_share", "config",
    "select",
    *SCORES, "test_ci95_low", "test_ci95_high", "test_rows_in_train", "test_groups_in_train",
    "n_params", "epochs", "batch_size", "steps", "n_configs", "n_diverged", "converged",
    "n_folds", "train_rows", "val_rows", "test_rows", "empty_classes", "train_seconds", "device",
    "precision", "features",
    "tap", "fingerprint", "weights_digest", "dataset_digest", "train_config_digest", "grid_digest",
    "experiment", "path",
)
"""Columns in order; a column that is a parameter of `probe` has its name.

`config` holds the selected configuration of a baseline ("k=5"), `converged` whether its logistic
regression did. `select` is the metric that selected it; `test_ci95_low` and `test_ci95_high` bound
a 95 % bootstrap interval of its test score over test samples. Metrics that belong to another task,
or are not defined, are NaN. `experiment` is the same for all seeds of an experiment and for nothing
else. `test_rows_in_train` and `test_groups_in_train` count test images that are training images,
too, and groups with samples on both sides. The columns of a further test set end in "@NAME".
Where `select` is none of the usual metrics, the table has columns for it, too.
"""
IDENTITY = (
    "model", "dataset", "dataset_digest", "weights_digest", "fingerprint", "tap",
    "train_config_digest", "grid_digest", "n_configs", "precision", "head", "layers", "tokens",
    "spatial", "n_tokens", "num_heads", "embedding", "join", "target", "train_split", "val_split",
    "folds", "repeats", "group", "fold_column", "refit", "test_split", "further_tests", "shots",
    "train_fraction", "search", "select", "experiment",
)
"""Columns that do not depend on the seed."""
SORT_KEYS = (
    "dataset", "model", "head", "n_tokens", "layers", "tokens", "shots", "train_fraction",
    "target", "train_split", "test_split", "experiment", "seed", "probe",
)
# fmt: on


def full_row(probe: Probe) -> dict[str, Any]:
    """Return the stored row with the columns that the spec and the folder give."""
    train_split, test_split = probe.spec["splits"]
    return {
        "spatial_share": None,
        "join": "",
        **probe.row,
        "gate": probe.row.get("gate") or "",
        "target": target_name(probe.spec),
        "train_split": train_split,
        "test_split": test_split,
        "further_tests": ", ".join(probe.tests[1:]),
        **_validation_columns(probe.spec.get("validation", {})),
        "search": probe.spec.get("search", "full"),
        "select": selection_metric_of(probe.spec).name,
        "experiment": probe.settings.experiment_key,
        "path": str(probe.path),
    }


def _validation_columns(validation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns named after the parameters of `probe`; None where not used."""
    return {
        "val_split": validation.get("split", validation.get("scheme")),
        "folds": validation.get("folds"),
        "repeats": validation.get("repeats", 1),
        "group": validation.get("group"),
        "fold_column": validation.get("fold_column"),
        "refit": validation.get("refit", "train"),
    }


def sort_key(probe: Probe) -> tuple[Any, ...]:
    """Return the key by which a table is sorted."""
    row = full_row(probe)
    # None and numbers do not compare: all samples come before a subset
    return tuple(
        (row[name] is not None, row[name] or 0)
        if name in ("shots", "train_fraction")
        else row[name]
        for name in SORT_KEYS
    )


def columns_of(probes: Sequence[Probe]) -> list[str]:
    """Return COLUMNS, and those of the metrics by which these probes were selected."""
    selected = dict.fromkeys(selection_metric_of(probe.spec).name for probe in probes)
    further = [f"{part}_{name}" for name in selected for part in ("val", "test")]
    position = COLUMNS.index("test_ci95_low")
    new = [name for name in further if name not in COLUMNS]
    of_tests = dict.fromkeys(name for probe in probes for name in probe.row if "@" in name)
    position_of_tests = COLUMNS.index("n_params")
    return [
        *COLUMNS[:position],
        *new,
        *COLUMNS[position:position_of_tests],
        *of_tests,
        *COLUMNS[position_of_tests:],
    ]


def score_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns that hold a metric."""
    return [name for name in columns if column_metric(name) is not None]


def shown_scores(probes: Sequence[Probe]) -> list[str]:
    """Return the score columns of a text.

    They are those that selected, top-1 accuracy, and of a regression all that are stored.
    """
    selected = dict.fromkeys(selection_metric_of(probe.spec).name for probe in probes)
    columns = []
    for name in selected:
        columns += [f"val_{name}", f"test_{name}"]
        tests = dict.fromkeys(test for probe in probes for test in probe.tests[1:])
        columns += [f"test_{name}@{test}" for test in tests]
    is_single_label = any(probe.row.get("test_top1_accuracy") is not None for probe in probes)
    if is_single_label and "test_top1_accuracy" not in columns:
        columns.append("test_top1_accuracy")
    if any(task_of(probe.spec["head_spec"]) == REGRESSION for probe in probes):
        columns += [f"test_{n}" for n in STANDARD[REGRESSION] if f"test_{n}" not in columns]
    return columns
