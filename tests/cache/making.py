"""Small caches for the tests: specs, tokens, and a whole split written in one call."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from layercache.cache import (
    Cache,
    CacheSpec,
    DatasetIdentity,
    SplitIdentity,
    SplitWriter,
    digest_ids,
    digest_labels,
    open_cache,
)
from layercache.cache.format.spec import sha256_json
from layercache.cache.storage.paths import CachePath

Array = np.ndarray[Any, np.dtype[Any]]


def make_ids(rows: int) -> list[str]:
    return [f"bilder/é{i}.png" for i in range(rows)]


def make_labels(rows: int, *, multi_label: bool = False) -> Array:
    if multi_label:
        return (np.arange(rows * 3).reshape(rows, 3) % 2).astype(np.uint8)
    return np.arange(rows, dtype=np.int64) % 3


def make_spec(rows: int = 50, *, multi_label: bool = False, **changes: Any) -> CacheSpec:
    """Return a spec of 2 layers x {CLS, AP} x 8, splits train (`rows`) and test (7).

    `changes` replaces fields.
    """
    splits = {
        name: SplitIdentity(
            rows=n,
            ids=digest_ids(make_ids(n)),
            labels=digest_labels(make_labels(n, multi_label=multi_label)),
            content="bytes:00",
        )
        for name, n in {"train": rows, "test": 7}.items()
    }
    dataset = DatasetIdentity(
        name="shapes",
        classes=("a", "b", "c"),
        multi_label=multi_label,
        limit=None,
        limit_seed=0,
        splits=splits,
    )
    spec = CacheSpec(
        model="vit_tiny",
        architecture="vit_tiny_patch4_28",
        weights="ab" * 32,
        depth=12,
        width=8,
        tap="norm2",
        layers=(6, 12),
        tokens=("cls", "ap"),
        projected=False,
        preprocessing={"mean": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
        precision="fp32",
        storage_dtype="float16",
        dataset=dataset,
    )
    return replace(spec, **changes)


def make_tokens(spec: CacheSpec, split: str = "train", *, seed: int = 0) -> Array:
    """Random (L, T, N, D) in the storage dtype."""
    shape = (len(spec.layers), len(spec.tokens), spec.dataset.splits[split].rows, spec.width)
    return np.random.default_rng(seed).standard_normal(shape).astype(spec.storage_dtype)


def make_writer(
    root: CachePath, spec: CacheSpec, split: str = "train", **options: Any
) -> SplitWriter:
    n = spec.dataset.splits[split].rows
    return SplitWriter(
        root,
        spec,
        split,
        ids=make_ids(n),
        labels=make_labels(n, multi_label=spec.dataset.multi_label),
        **options,
    )


def write_pending(
    writer: SplitWriter,
    tokens: Array,
    *,
    stop_after: int | None = None,
    skipped: dict[int, str] | None = None,
) -> None:
    """Write the pending blocks, or the first of them."""
    r = writer.block_rows
    for block in writer.pending[:stop_after]:
        block_skipped = {
            row: why for row, why in (skipped or {}).items() if block * r <= row < (block + 1) * r
        }
        writer.write(block, tokens[:, :, block * r : (block + 1) * r], skipped=block_skipped)


def make_cache(
    root: CachePath,
    spec: CacheSpec,
    *,
    splits: tuple[str, ...] = ("train",),
    skipped: dict[int, str] | None = None,
    **options: Any,
) -> Cache:
    """A cache whose splits are complete, with the tokens of `make_tokens`."""
    for split in splits:
        with make_writer(root, spec, split, **options) as writer:
            write_pending(
                writer, make_tokens(spec, split), skipped=skipped if split == "train" else None
            )
            writer.finish()
    return open_cache(writer.path)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Make a folder where fsync costs nothing, for tests that make many caches.

    An ordinary folder where there is no such place.
    """
    with TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


def make_schema_1_cache(root: Path, spec: CacheSpec) -> Path:
    """A folder as schema 1 wrote it, with `store_dtype` in its spec; returns its path."""
    fields = spec.to_json()
    fields["schema"] = 1
    fields["store_dtype"] = fields.pop("storage_dtype")
    fingerprint = sha256_json({key: value for key, value in fields.items() if key != "model"})
    folder = root / spec.dataset.name / spec.model / fingerprint[:12]
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps({"fingerprint": fingerprint, **fields}, indent=2))
    return folder
