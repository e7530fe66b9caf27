"""Command-line options of `layercache probe` that train another probe as an existing one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layercache.probing.heads.spec import BASELINES, WITHOUT_DROPOUT
from layercache.probing.training.config import (
    DROPOUTS,
    LEARNING_RATES,
    WEIGHT_DECAYS,
    Noise,
    TrainConfig,
)

GRID = {
    "lr": ("--lr", LEARNING_RATES),
    "weight_decay": ("--weight-decay", WEIGHT_DECAYS),
    "dropout": ("--dropout", DROPOUTS),
}
"""Hyperparameter -> its option and default values."""
TRAIN_CONFIG = {
    "epochs": "--epochs",
    "min_steps": "--min-steps",
    "batch": "--batch-size",
    "patience": "--patience",
    "layer_dropout": "--layer-dropout",
    "kind_dropout": "--kind-dropout",
    "last_layer_penalty": "--last-layer-penalty",
}
"""Field of TrainConfig -> its option; the others can be set in Python and in a study only."""
NOISE = {"std": "--noise", "probability": "--noise-probability"}
"""Field of Noise -> its option."""
VALIDATION = {
    "split": "--val",
    "scheme": "--val",
    "folds": "--folds",
    "repeats": "--repeats",
    "group": "--group",
    "fold_column": "--fold-column",
    "refit": "--refit",
}
"""Field of Validation -> its option."""


def training_options(spec: Mapping[str, Any], *, head: str) -> list[str]:
    """Return the options that train a head as a probe was trained; defaults are left out.

    A grid that is not a product of values becomes the product of its values.

    Args:
        spec: Specification of the probe, as in `Probe.spec`.
        head: Name of the head to train, which may be another one than the probe's.
    """
    options: dict[str, Any] = {}
    if head not in BASELINES and spec["head"] not in BASELINES:
        without_dropout = not {head, spec["head"]}.isdisjoint(WITHOUT_DROPOUT)
        for name, (option, default) in GRID.items():
            values = tuple(dict.fromkeys(hparams[name] for hparams in spec["grid"]))
            if values != default and not (name == "dropout" and without_dropout):
                options[option] = ",".join(map(repr, values))
        config = spec["train_config"]
        for name, option in TRAIN_CONFIG.items():
            if name in config and config[name] != getattr(TrainConfig(), name):
                options[option] = config[name]
        for name, option in NOISE.items():
            value = (config["noise"] or {"std": 0.0, "probability": 0.0})[name]
            if value != getattr(Noise(), name):
                options[option] = value
        if spec["precision"] != "fp32":
            options["--precision"] = spec["precision"]
        if "search" in spec:
            options["--search"] = spec["search"]
    if "select" in spec:
        options["--select"] = spec["select"]
    options |= _validation_options(spec.get("validation", {}))
    words = [word for option, value in options.items() for word in (option, str(value))]
    words += _test_options(spec)
    return [*words, "--paper-compat"] if spec.get("paper_compat") else words


def _validation_options(validation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for a `Validation` as JSON."""
    return {VALIDATION[name]: value for name, value in validation.items()}


def _test_options(spec: Mapping[str, Any]) -> list[str]:
    """Return the options for the test sets; the names of datasets stand for their caches."""
    tests = spec.get("tests", ())
    further = [test["name"] for test in tests if "fingerprint" not in test]
    words = []
    if spec["splits"][1] != "test" or further:
        words += [w for name in (spec["splits"][1], *further) for w in ("--test", name)]
    for test in tests:
        if "fingerprint" in test:
            dataset, _, split = test["name"].partition("/")
            words += ["--test-cache", f"{dataset}@{split}" if split else dataset]
    return words


def seed_options(seeds: Sequence[int]) -> list[str]:
    """Return the option for these seeds; none for seed 0 alone, which is the default."""
    seeds = sorted(set(seeds))
    if seeds == list(range(len(seeds))):
        return ["--seeds", str(len(seeds))] if len(seeds) > 1 else []
    return ["--seeds", ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")]
