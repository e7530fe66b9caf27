"""Specs and caches with given content.

Caches are written by the library's own writer, so they are complete and valid.

Shapes: L layers, T token kinds, N rows, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from layercache.cache import (
    Cache,
    CacheSpec,
    DatasetIdentity,
    SplitIdentity,
    SplitWriter,
    digest_ids,
    open_cache,
)
from layercache.cache.annotations.label import label_column, record_label
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import CachePath
from layercache.cache.writing.codec import store_codec
from layercache.testing.codecs import encode_tokens, make_codec

Array = np.ndarray[Any, np.dtype[Any]]

CLASSES = ("a", "b", "c")
TEST_ROWS = 7


def make_ids(rows: int) -> list[str]:
    """Return sample ids that are not ASCII."""
    return [f"bilder/é{i}.png" for i in range(rows)]


def make_labels(rows: int, *, multi_label: bool = False) -> Array:
    """Return labels of CLASSES, int64 (N,) or uint8 (N, C)."""
    if multi_label:
        return (np.arange(rows * 3).reshape(rows, 3) % 2).astype(np.uint8)
    return np.arange(rows, dtype=np.int64) % 3


def make_identity(ids: Mapping[str, list[str]], *, name: str = "shapes") -> DatasetIdentity:
    """Return the identity of a dataset.

    Args:
        ids: Sample ids by split.
        name: Name of the dataset.
    """
    return DatasetIdentity(
        name=name,
        limit=None,
        limit_seed=0,
        splits={
            split: SplitIdentity(rows=len(names), ids=digest_ids(names), content="bytes:00")
            for split, names in ids.items()
        },
    )


def make_spec(rows: int = 50, **changes: Any) -> CacheSpec:
    """Return a spec of 2 layers x {CLS, AP} x 8 with splits train (`rows`) and test (7).

    Args:
        rows: Rows of the training split.
        **changes: Fields of the spec to replace.
    """
    n_rows = {"train": rows, "test": TEST_ROWS}
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
        dataset=make_identity({name: make_ids(n) for name, n in n_rows.items()}),
    )
    return replace(spec, **changes)


def make_tokens(spec: CacheSpec, split: str = "train", *, seed: int = 0) -> Array:
    """Return standard normal tokens (L, T, N, D) in the storage dtype."""
    shape = (len(spec.layers), len(spec.tokens), spec.dataset.splits[split].rows, spec.width)
    return np.random.default_rng(seed).standard_normal(shape).astype(spec.storage_dtype)


def make_writer(
    root: CachePath, spec: CacheSpec, split: str = "train", **options: Any
) -> SplitWriter:
    """Return a writer of a split of `make_spec`, with its ids."""
    rows = spec.dataset.splits[split].rows
    return SplitWriter(root, spec, split, ids=make_ids(rows), **options)


def write_labels(
    path: CachePath, spec: CacheSpec, labels: Mapping[str, Array], *, classes: Sequence[str]
) -> None:
    """Record the labels of a cache as an extraction does.

    Args:
        path: Folder of the cache.
        spec: Its spec.
        labels: Labels by split, (N,) or (N, C).
        classes: Names of the classes.
    """
    column = label_column(labels, classes=classes, splits=spec.dataset.splits)
    record_label(open_store(path), column)


def write_pending(
    writer: SplitWriter,
    tokens: Array,
    *,
    stop_after: int | None = None,
    skipped: Mapping[int, str] | None = None,
) -> None:
    """Write the pending row blocks.

    Args:
        writer: Writer of the split.
        tokens: Tokens of the whole split, (L, T, N, D).
        stop_after: Number of blocks to write; None: all.
        skipped: Reason by skipped row.
    """
    for block in writer.pending[:stop_after]:
        start, stop = block * writer.block_rows, (block + 1) * writer.block_rows
        reasons = {row: why for row, why in (skipped or {}).items() if start <= row < stop}
        writer.write(block, tokens[:, :, start:stop], skipped=reasons)


def make_cache(
    root: CachePath,
    spec: CacheSpec,
    *,
    splits: Sequence[str] = ("train",),
    skipped: Mapping[int, str] | None = None,
    multi_label: bool = False,
    labelled: bool = True,
    **options: Any,
) -> Cache:
    """Write complete splits with the tokens of `make_tokens` and the labels of `make_labels`.

    Args:
        root: Folder or address of the caches.
        spec: See `make_spec`.
        splits: Splits to write.
        skipped: Reason by skipped row of the training split.
        multi_label: Labels are 0/1 per class.
        labelled: Write labels.
        **options: Options of the writer.
    """
    labels = {
        name: make_labels(split.rows, multi_label=multi_label)
        for name, split in spec.dataset.splits.items()
    }
    codec = None
    if spec.codec:
        codec = store_codec(root, spec, lambda: make_codec(spec, make_tokens(spec)))
    for split in splits:
        with make_writer(root, spec, split, **options) as writer:
            if labelled:
                write_labels(writer.path, spec, labels, classes=CLASSES)
            tokens = make_tokens(spec, split)
            if codec:
                tokens = encode_tokens(codec, tokens)
            write_pending(writer, tokens, skipped=skipped if split == "train" else None)
            writer.finish()
    return open_cache(writer.path)


def write_cache(
    tokens: Mapping[str, Array],
    labels: Mapping[str, Array],
    *,
    root: CachePath,
    kinds: Sequence[str] = ("cls", "ap"),
    layers: Sequence[int] | None = None,
    classes: int | Sequence[str] | None = None,
    depth: int | None = None,
    model: str = "vit_small_made",
    dataset: str = "made_up",
    weights: str = "ab" * 32,
    limit: int | None = None,
    finish: bool = True,
    codec: str | None = None,
) -> Cache:
    """Write given tokens and labels.

    Args:
        tokens: Tokens by split, (L, T, N, D), in the storage dtype.
        labels: Labels by split, (N,) or (N, C).
        root: Folder or address of the caches.
        kinds: Names of the T token kinds.
        layers: Numbers of the L layers; None: from 1.
        classes: Names or number of the classes; None: as many as the labels have.
        depth: Number of blocks of the model; None: the number of its last layer.
        model: Name of the model.
        dataset: Name of the dataset.
        weights: Digest of the weights.
        limit: Limit of the samples in the dataset's identity.
        finish: Mark the splits as complete.
        codec: Name of a codec that stores the tokens.
    """
    first_tokens = next(iter(tokens.values()))
    n_layers, _, _, width = first_tokens.shape
    dtype = first_tokens.dtype
    layers = tuple(layers or range(1, n_layers + 1))
    labels = {name: y.astype(np.int64 if y.ndim == 1 else np.uint8) for name, y in labels.items()}
    if classes is None:
        first = next(iter(labels.values()))
        if first.ndim == 2:
            classes = first.shape[1]
        else:
            classes = int(max(y.max() for y in labels.values())) + 1
    if isinstance(classes, int):
        classes = [f"class {c}" for c in range(classes)]
    ids = {name: [f"{name}/{i}.png" for i in range(len(y))] for name, y in labels.items()}
    spec = CacheSpec(
        model=model,
        architecture="vit_made",
        weights=weights,
        depth=depth or max(layers),
        width=width,
        tap="norm2",
        layers=layers,
        tokens=tuple(kinds),
        projected=False,
        preprocessing={"input_size": [28, 28]},
        precision="fp32",
        storage_dtype="float32" if dtype == np.float32 else "float16",
        dataset=replace(make_identity(ids, name=dataset), limit=limit),
        codec=codec,
    )
    if codec:
        fitted = store_codec(root, spec, lambda: make_codec(spec, first_tokens))
        tokens = {name: encode_tokens(fitted, x_ltnd) for name, x_ltnd in tokens.items()}
    for name, x_ltnd in tokens.items():
        with SplitWriter(root, spec, name, ids=ids[name]) as writer:
            write_labels(writer.path, spec, labels, classes=classes)
            write_pending(writer, x_ltnd)
            if finish:
                writer.finish()
    return open_cache(writer.path)


def write_planted_cache(
    *,
    root: CachePath,
    rows: int = 240,
    test_rows: int = 120,
    classes: int = 3,
    depth: int = 4,
    width: int = 8,
    layer: int = 2,
    kind: int = 0,
    strength: float = 3.0,
    shuffled: bool = False,
    multi_label: bool = False,
    dtype: str = "float16",
    kinds: Sequence[str] = ("cls", "ap"),
    seed: int = 0,
    **options: Any,
) -> Cache:
    """Write normal noise that depends on the class in one layer and token kind only.

    Args:
        root: Folder or address of the caches.
        rows: Rows of the training split.
        test_rows: Rows of the test split.
        classes: Number of classes.
        depth: Number of layers.
        width: D.
        layer: Number of the layer with the class.
        kind: Index of the token kind with the class.
        strength: Length of the class's mean vector relative to the noise.
        shuffled: Permute the labels afterwards, so that nothing can be learned.
        multi_label: Labels are 0/1 per class.
        dtype: Storage dtype.
        kinds: Names of the token kinds.
        seed: Seed of tokens and labels.
        **options: Options of `write_cache`.
    """
    rng, label_rng = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    directions = rng.normal(size=(classes, width))
    tokens, labels = {}, {}
    for name, n in {"train": rows, "test": test_rows}.items():
        x = rng.normal(size=(depth, len(kinds), n, width))
        if multi_label:
            y = (label_rng.random((n, classes)) < 0.4).astype(np.uint8)
            x[layer - 1, kind] += strength * (y - 0.4) @ directions
        else:
            y = label_rng.permutation(np.arange(n) % classes)
            x[layer - 1, kind] += strength * directions[y]
            if shuffled:
                y = label_rng.permutation(y)
        tokens[name], labels[name] = x.astype(dtype), y
    return write_cache(tokens, labels, root=root, kinds=kinds, classes=classes, **options)
