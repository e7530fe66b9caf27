"""Gates of the fusion head, and regularization of attention over layers, on few samples.

    OMP_NUM_THREADS=1 python benchmarks/gates.py [--cache FOLDER] [--shots 10] [--seeds 3]

`vit_nano` (ships with the package) on `digits`: mean test balanced accuracy over the seeds of each
head and option, in percent, and the difference from ALF of the same seeds with its standard error.
One learning rate and weight decay without dropout, so that each option costs one training.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np

import layercache
from layercache.probing.training.config import Noise, TrainConfig

SPATIAL = {"spatial": "grid:2", "spatial_layers": "last"}
FUSION = {"head": "fusion", **SPATIAL}
VARIANTS: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("ALF", {"head": "attentive"}, {}),
    ("AAT, grid:2 of the last layer", {"head": "attentive-tokens", "tokens": "grid:2"}, {}),
    ("fusion, scalar gate", FUSION, {}),
    ("fusion, gate per class", {**FUSION, "gate": "class"}, {}),
    ("fusion, gate per sample", {**FUSION, "gate": "sample"}, {}),
    ("hybrid", {"head": "hybrid", **SPATIAL}, {}),
    ("hybrid, embeddings", {"head": "hybrid", **SPATIAL, "position_embedding": True}, {}),
    ("ALF, layer dropout 0.1", {"head": "attentive"}, {"layer_dropout": 0.1}),
    ("ALF, layer dropout 0.3", {"head": "attentive"}, {"layer_dropout": 0.3}),
    ("ALF, kind dropout 0.3", {"head": "attentive"}, {"kind_dropout": 0.3}),
    ("ALF, noise 0.1", {"head": "attentive"}, {"noise": Noise(std=0.1)}),
    ("ALF, last-layer penalty 0.1", {"head": "attentive"}, {"last_layer_penalty": 0.1}),
    ("ALF, last-layer penalty 1", {"head": "attentive"}, {"last_layer_penalty": 1.0}),
)


def main() -> None:
    """Train every variant and print a row for each as it ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, default=Path(gettempdir()) / "layercache-gates")
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--min-steps", type=int, default=300)
    args = parser.parse_args()
    try:
        cache = layercache.open_cache(root=args.cache, model="vit_nano", dataset="digits")
    except layercache.errors.CacheNotFoundError:
        (extraction,) = layercache.extract(
            models=["vit_nano"], dataset="digits", tokens="cls+ap+grid:2", cache=args.cache
        )
        cache = extraction.open()
    baseline = None
    for name, head, training in VARIANTS:
        results = layercache.probe(
            cache,
            **head,
            lr=0.01,
            weight_decay=0.01,
            dropout=0.0,
            seeds=args.seeds,
            shots=args.shots,
            train_config=TrainConfig(epochs=args.epochs, min_steps=args.min_steps, **training),
            device="cpu",
        )
        scores = np.array([100 * probe.row["test_balanced_accuracy"] for probe in results])
        baseline = scores if baseline is None else baseline
        gain = scores - baseline
        error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else float("nan")
        shares = [probe.row["spatial_share"] for probe in results]
        shown = f"  shares {shares}" if head["head"] == "fusion" else ""
        seconds = np.mean([probe.row["train_seconds"] for probe in results])
        print(
            f"{name:32s} {scores.mean():6.2f}  {gain.mean():+6.2f} +- {error:4.2f}  "
            f"{seconds:6.1f} s{shown}",
            flush=True,
        )


if __name__ == "__main__":
    main()
