"""Caches with planted class information in lower layers, and trained or synthetic probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from layercache.cache import Cache
from layercache.probing.api import probe
from layercache.probing.results.probe_store import Probe
from layercache.probing.training.config import TrainConfig
from layercache.testing import write_cache
from layercache.testing.probes import write_probe

CLASSES = ("ant", "bee", "cat", "dog")
ROWS = {"train": 240, "test": 160}
CONFIG = {"lr": 0.05, "weight_decay": 1e-4, "dropout": 0.0}


def labels_of(split: str) -> np.ndarray[Any, Any]:
    return (np.arange(ROWS[split]) % len(CLASSES)).astype(np.int64)


def ids_of(split: str) -> list[str]:
    return [f"{split}/{i}.png" for i in range(ROWS[split])]


def make_cache(
    root: Path,
    *,
    model: str = "vit_toy",
    dataset: str = "toys",
    depth: int = 4,
    width: int = 24,
    layers: tuple[int, ...] | None = None,
    tokens: tuple[str, ...] = ("cls", "ap"),
    seed: int = 0,
    test: bool = True,
    limit: int | None = None,
    weights: str = "",
) -> Cache:
    """Plant half of the class information in the AP of middle layers, half in the last CLS."""
    layers = layers or tuple(range(1, depth + 1))
    rng = np.random.default_rng([seed, *model.encode(), *dataset.encode()])
    one, two = rng.normal(size=(2, 2, width))
    features = {}
    for split in ROWS if test else ["train"]:
        labels = labels_of(split)
        x = rng.normal(size=(len(layers), len(tokens), len(labels), width))
        for i, layer in enumerate(layers):
            for j, token in enumerate(tokens):
                if token == "cls":
                    x[i, j] += 0.9 * layer / depth * one[labels // 2] * 1.2
                else:
                    x[i, j] += (1.1 - abs(layer / depth - 0.5)) * two[labels % 2]
        x[1:] += 0.6 * x[:-1]
        features[split] = x.astype(np.float16)
    return write_cache(
        features,
        {split: labels_of(split) for split in ROWS},
        root=root,
        kinds=tokens,
        layers=layers,
        classes=CLASSES,
        depth=depth,
        model=model,
        dataset=dataset,
        weights=((weights or model).encode().hex() * 64)[:64],
        limit=limit,
    )


def train(cache: Cache, **choices: Any) -> None:
    """Train probes for a few epochs."""
    options = {
        "train_config": TrainConfig(epochs=3, min_steps=0, batch=64),
        **CONFIG,
        "device": "cpu",
        **choices,
    }
    if str(options.get("head", "attentive")) == "linear":
        options["dropout"] = None
    probe(cache, **options)


def logits_of(correct: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Logits (N, C) of a head that predicts the target where `correct`, else the next class."""
    targets = labels_of("test")
    predicted = np.where(correct, targets, (targets + 1) % len(CLASSES))
    return (4 * np.eye(len(CLASSES))[predicted]).astype(np.float32)


def first(count: int) -> np.ndarray[Any, Any]:
    """Correct on the first images only: classes alternate, so balanced accuracy is count / N."""
    return np.arange(ROWS["test"]) < count


def save_probe(
    cache: Cache,
    *,
    head: str,
    layers: str,
    tokens: str,
    correct: np.ndarray[Any, Any],
    seed: int = 0,
    shots: int | None = None,
    num_heads: int = 0,
    n_configs: int = 1,
    dropouts: tuple[float, ...] = (0.0,),
    epochs: int = 40,
    test_split: str = "test",
    attention: np.ndarray[Any, Any] | None = None,
) -> Probe:
    """Save a complete probe with these predictions, untrained; `attention` (H, S), else uniform."""
    grid: list[dict[str, float]] = [
        {"lr": 10.0**-i, "weight_decay": 0.0, "dropout": dropout}
        for i in range(n_configs)
        for dropout in dropouts
    ]
    return write_probe(
        cache,
        logits_of(correct),
        targets=labels_of("test"),
        ids=ids_of("test"),
        head=head,
        layers=layers,
        tokens=tokens,
        grid=[{"k": 1}] if head == "knn" else grid,
        seed=seed,
        shots=shots,
        num_heads=num_heads,
        train_config=TrainConfig(epochs=epochs),
        test_split=test_split,
        attention=attention,
    )


def save_all_probes(cache: Cache, *, baseline: int = 80, fusion: int = 120, seed: int = 0) -> None:
    """Save the probes that the sections of a report need."""
    depth = cache.spec.depth
    for layer in range(1, depth + 1):
        save_probe(
            cache,
            head="linear",
            layers=str(layer),
            tokens="cls",
            correct=first(baseline - 8 * (depth - layer)),
            seed=seed,
        )
        save_probe(
            cache,
            head="linear",
            layers=str(layer),
            tokens="ap",
            correct=first(baseline - 4 * (depth - layer) - 4),
            seed=seed,
        )
    for layers, count in (("last", baseline + 8), ("mid-last", baseline + 16), ("all", fusion)):
        save_probe(
            cache, head="attentive", layers=layers, tokens="cls+ap", correct=first(count), seed=seed
        )
    for tokens, count in (("cls", fusion - 12), ("ap", fusion - 8)):
        save_probe(
            cache, head="attentive", layers="all", tokens=tokens, correct=first(count), seed=seed
        )
    save_probe(
        cache, head="linear", layers="all", tokens="cls+ap", correct=first(fusion - 4), seed=seed
    )
    save_probe(
        cache, head="knn", layers="all", tokens="cls+ap", correct=first(fusion - 40), seed=seed
    )
    save_probe(
        cache,
        head="attentive",
        layers="all",
        tokens="cls+ap",
        correct=first(fusion - 8),
        num_heads=2,
        seed=seed,
    )
    for shots in (1, 5):
        save_probe(
            cache,
            head="linear",
            layers="last",
            tokens="cls",
            correct=first(40 + 4 * shots),
            shots=shots,
            seed=seed,
        )
        save_probe(
            cache,
            head="attentive",
            layers="all",
            tokens="cls+ap",
            correct=first(40 + 8 * shots),
            shots=shots,
            seed=seed,
        )
