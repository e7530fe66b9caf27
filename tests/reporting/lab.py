"""A small world with known truth: caches whose lower layers know what the last one has forgotten, and real probes trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from layercache.cache import Cache, CacheSpec, DatasetIdentity, SplitIdentity, SplitWriter, digest_ids, digest_labels, open_cache
from layercache.probing.protocol import Protocol
from layercache.probing.sweep import probe

CLASSES = ("ant", "bee", "cat", "dog")
ROWS = {"train": 240, "test": 160}
QUICK = {"lr": 0.05, "weight_decay": 1e-4, "dropout": 0.0}


def labels_of(split: str) -> np.ndarray[Any, Any]:
    return (np.arange(ROWS[split]) % len(CLASSES)).astype(np.int64)


def ids_of(split: str) -> list[str]:
    return [f"{split}/{i:03d}.png" for i in range(ROWS[split])]


def make_spec(*, model: str, dataset: str, depth: int, width: int, layers: tuple[int, ...], tokens: tuple[str, ...]) -> CacheSpec:
    splits = {s: SplitIdentity(rows=ROWS[s], ids=digest_ids(ids_of(s)), labels=digest_labels(labels_of(s)), content=f"bytes:{dataset}") for s in ROWS}
    identity = DatasetIdentity(name=dataset, classes=CLASSES, multi_label=False, limit=None, limit_seed=0, splits=splits)
    return CacheSpec(
        model=model,
        architecture="vit",
        weights=(model.encode().hex() * 20)[:64],
        depth=depth,
        width=width,
        tap="norm2",
        layers=layers,
        tokens=tokens,
        projected=False,
        preprocessing={},
        precision="fp32",
        store_dtype="float16",
        dataset=identity,
    )


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
) -> Cache:
    """Half of what tells the classes apart is in the middle layers' AP only, the other half in the last CLS."""
    layers = layers or tuple(range(1, depth + 1))
    spec = make_spec(model=model, dataset=dataset, depth=depth, width=width, layers=layers, tokens=tokens)
    rng = np.random.default_rng([seed, *model.encode(), *dataset.encode()])
    one, two = rng.normal(size=(2, 2, width))
    path = root
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
        with SplitWriter(root, spec, split, ids=ids_of(split), labels=labels) as writer:
            r = writer.block_rows
            for block in writer.pending:
                writer.write(block, x[:, :, block * r : (block + 1) * r].astype(np.float16))
            writer.finish()
        path = writer.path
    return open_cache(path)


def train(cache: Cache, **choices: Any) -> None:
    """Real probes, trained for a moment."""
    options = {"protocol": Protocol(epochs=3, min_steps=0, batch=64), **QUICK, "device": "cpu", **choices}
    if str(options.get("head", "attentive")) == "linear":
        options["dropout"] = None
    probe(cache, **options)
