"""Probes with given rows and specs, which nobody trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layercache.probing.results.config_score import ConfigScore
from layercache.probing.results.probe_store import Probe
from tests.probing.probe_specs import make_probe_spec

ROW = {
    "model": "m", "dataset": "d", "spatial": "", "n_tokens": 1, "num_heads": 0, "embedding": False,
    "lr": 0.1, "weight_decay": 1e-4, "dropout": 0.0, "config": "", "val_balanced_accuracy": 0.5,
    "test_balanced_accuracy": 0.5, "test_top1_accuracy": 0.5, "test_top5_accuracy": 0.9,
    "test_mean_average_precision": None, "test_ci95_low": 0.4, "test_ci95_high": 0.6,
    "n_params": 1234, "train_seconds": 1.25,
}  # fmt: skip
SHARED = {"head": "linear", "layers": "last", "tokens": "cls", "seed": 0, "shots": None,
          "train_fraction": None, "test_split": "test", "train_split": "train"}  # fmt: skip
FUSION = {"head": "attentive", "layers": "6,12", "tokens": "cls+ap"}


def made(
    probe: str = "0", *, configs: Sequence[ConfigScore] = (), spec: Any = None, **changes: Any
) -> Probe:
    """Return a probe; `changes` are those of its row, `spec` those of its spec alone."""
    shared = {name: changes.get(name, value) for name, value in SHARED.items()}
    return Probe(
        path=Path(f"/nowhere/probes/{probe}"),
        spec=make_probe_spec(**shared, **(spec or {})),
        row={**ROW, **shared, **changes, "probe": probe},
        configs=tuple(configs),
    )
