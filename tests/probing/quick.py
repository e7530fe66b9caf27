"""Options of probes that train in a fraction of a second."""

from __future__ import annotations

from typing import Any

from layercache.probing.training.config import TrainConfig

QUICK = TrainConfig(epochs=15, min_steps=0, min_batches=3)
ONE_CONFIG: dict[str, Any] = {
    "lr": 0.03,
    "weight_decay": 1e-4,
    "dropout": 0.0,
    "train_config": QUICK,
    "device": "cpu",
}
