"""Whole caches with given tokens, written by the project's own writer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

Array = np.ndarray[Any, Any]

# The tensors of the tests are tiny: threads cost more than they give, and on a shared machine they wait for each other. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says nothing on a shared machine.
settings.register_profile("layercache", deadline=None)
settings.load_profile("layercache")


@pytest.fixture
def write_cache(tmp_path: Path) -> Callable[..., Any]:
    """write_cache(tokens, labels, ...) -> Cache, complete: tokens and labels by split, (L, T, N, D) and (N,) or (N, C); below tmp_path."""
    from layercache.cache import (
        CacheSpec,
        DatasetIdentity,
        SplitIdentity,
        SplitWriter,
        digest_ids,
        digest_labels,
        open_cache,
    )

    def write(
        tokens: Mapping[str, Array],
        labels: Mapping[str, Array],
        *,
        kinds: tuple[str, ...] = ("cls", "ap"),
        layers: tuple[int, ...] | None = None,
        classes: int | None = None,
        model: str = "vit_small_made",
        dataset: str = "made_up",
        weights: str = "ab" * 32,
        root: Path = tmp_path / "root",
        finish: bool = True,
    ) -> Any:
        depth, _, _, width = next(iter(tokens.values())).shape
        labels = {
            name: y.astype(np.int64 if y.ndim == 1 else np.uint8) for name, y in labels.items()
        }
        first = next(iter(labels.values()))
        multi = first.ndim == 2
        count = classes or (
            first.shape[1] if multi else int(max(y.max() for y in labels.values())) + 1
        )
        ids = {name: [f"{name}/{i}.png" for i in range(len(y))] for name, y in labels.items()}
        identity = DatasetIdentity(
            name=dataset,
            classes=tuple(f"class {c}" for c in range(count)),
            multi_label=multi,
            limit=None,
            limit_seed=0,
            splits={
                name: SplitIdentity(
                    rows=len(y),
                    ids=digest_ids(ids[name]),
                    labels=digest_labels(y),
                    content="bytes:00",
                )
                for name, y in labels.items()
            },
        )
        spec = CacheSpec(
            model=model,
            architecture="vit_made",
            weights=weights,
            depth=max(layers) if layers else depth,
            width=width,
            tap="norm2",
            layers=layers or tuple(range(1, depth + 1)),
            tokens=kinds,
            projected=False,
            preprocessing={"input_size": [28, 28]},
            precision="fp32",
            storage_dtype=str(next(iter(tokens.values())).dtype),
            dataset=identity,
        )
        for name, x in tokens.items():
            with SplitWriter(root, spec, name, ids=ids[name], labels=labels[name]) as writer:
                for block in writer.pending:
                    writer.write(
                        block, x[:, :, block * writer.block_rows : (block + 1) * writer.block_rows]
                    )
                if finish:
                    writer.finish()
                path = writer.path
        return open_cache(path)

    return write


@pytest.fixture
def planted(write_cache: Callable[..., Any]) -> Callable[..., Any]:
    """planted(...) -> Cache whose classes show in one layer and token kind only; everything else is noise."""

    def make(
        *,
        rows: int = 240,
        tests: int = 120,
        classes: int = 3,
        depth: int = 4,
        width: int = 8,
        layer: int = 2,
        kind: int = 0,
        strength: float = 3.0,
        shuffled: bool = False,
        multi_label: bool = False,
        dtype: str = "float16",
        kinds: tuple[str, ...] = ("cls", "ap"),
        seed: int = 0,
        **options: Any,
    ) -> Any:
        rng, of_labels = np.random.default_rng(seed), np.random.default_rng([seed, 1])
        directions = rng.normal(size=(classes, width))
        tokens, labels = {}, {}
        for name, n in {"train": rows, "test": tests}.items():
            x = rng.normal(size=(depth, len(kinds), n, width))
            if multi_label:
                y = (of_labels.random((n, classes)) < 0.4).astype(np.uint8)
                x[layer - 1, kind] += strength * (y - 0.4) @ directions
            else:
                y = of_labels.permutation(np.arange(n) % classes)
                x[layer - 1, kind] += strength * directions[y]
                if shuffled:
                    y = of_labels.permutation(y)
            tokens[name], labels[name] = x.astype(dtype), y
        return write_cache(tokens, labels, kinds=kinds, classes=classes, **options)

    return make
