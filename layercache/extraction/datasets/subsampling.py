"""Seeded draws of samples: limited splits, held-out test splits, splits of datasets without any.

A draw is the same on every machine and under every version of numpy. `Generator.permutation` may
change between numpy versions; the raw stream of PCG64 and the seeding of `SeedSequence` may not, so
a draw sorts rows by raw 64-bit numbers.

Shapes: N samples, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from layercache.errors import OptionError
from layercache.extraction.datasets.base import Dataset, Samples
from layercache.extraction.datasets.in_memory import InMemoryDataset

Array = np.ndarray[Any, Any]

TRAIN_FRACTION = 0.8
"""Fraction of a dataset without splits that is kept for training."""


def limit_samples(dataset: Dataset, limit: int | None, *, seed: int = 0) -> Dataset:
    """Keep at most `limit` samples of every split, in the source's order.

    Each class keeps its proportion (and at least one sample where `limit` suffices); a multi-label
    dataset is drawn without regard to labels. The draw depends only on the seed, the split's name
    and the labels.

    Args:
        dataset: The dataset to shorten.
        limit: Maximum number of samples per split; None returns the dataset unchanged. A smaller
            split stays whole.
        seed: Seed of the draw.

    Raises:
        OptionError: `limit` is less than 1, or `seed` is negative.
    """
    if limit is None:
        return dataset
    if limit < 1:
        raise OptionError(f"limit: expected at least 1 sample, got {limit}")
    if seed < 0:
        raise OptionError(f"limit: expected a seed of at least 0, got {seed}")
    samples: dict[str, Samples] = {}
    for name in dataset.splits:
        split = dataset.split(name)
        if limit < len(split.labels):
            draw = draw_uniform if dataset.multi_label else draw_stratified
            split = split.take(draw(split.labels, limit, seed=seed, key=name))
        samples[name] = split
    return InMemoryDataset(
        name=dataset.name,
        classes=dataset.classes,
        multi_label=dataset.multi_label,
        samples=samples,
        ignored=getattr(dataset, "ignored", {}),
        notes=getattr(dataset, "notes", ()),
    )


def hold_out_test(samples: Samples) -> dict[str, Samples]:
    """Divide one split into 80 % train and 20 % test of every class, drawn with seed 0.

    A class of one image stays in train. A multi-label split is drawn without regard to labels.
    """
    n = len(samples.labels)
    classes = samples.labels if samples.labels.ndim == 1 else np.zeros(n, np.int64)
    train = draw_stratified(classes, min(round(TRAIN_FRACTION * n), n - 1), seed=0, key="hold-out")
    return {"train": samples.take(train), "test": samples.take(np.setdiff1d(np.arange(n), train))}


def draw_stratified(labels: Array, n: int, *, seed: int, key: str) -> Array:
    """Draw `n` rows, ascending, that keep each class's proportion. labels: int64 (N,).

    Samples without a label (-1) are drawn as if they were one more class.
    """
    if len(labels) and labels.min() < 0:
        labels = labels - labels.min()
    order = permutation(len(labels), seed=seed, key=key)
    # rows grouped by class, each class in the shuffled order
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels) if len(labels) else np.zeros(0, np.int64)
    starts = np.cumsum(counts) - counts
    rank_in_class = np.arange(len(labels)) - np.repeat(starts, counts)
    return np.sort(by_class[rank_in_class < np.repeat(apportion(counts, n), counts)])


def draw_uniform(labels: Array, n: int, *, seed: int, key: str) -> Array:
    """Draw `n` rows, ascending, whatever their labels (N, ...)."""
    return np.sort(permutation(len(labels), seed=seed, key=key)[:n])


def permutation(n: int, *, seed: int, key: str) -> Array:
    """Return a permutation of 0..n-1, int64 (n,), that depends only on `seed` and `key`."""
    if n == 0:
        return np.zeros(0, np.int64)
    stream = np.random.PCG64(np.random.SeedSequence([seed, *key.encode()]))
    return np.argsort(stream.random_raw(n), kind="stable").astype(np.int64)


def apportion(counts: Array, n: int) -> Array:
    """Divide `n` samples among classes in proportion to their counts: int64 (C,), summing to n.

    Largest remainder: each class is off by less than one sample, but no class that has a sample
    goes without one while `n` suffices for all. Ties go to the lower class. Integer arithmetic, so
    that no machine's rounding decides.
    """
    counts = counts.astype(np.int64)
    total = int(counts.sum())
    if n >= total:
        return counts
    shares = counts * n // total
    if n >= int((counts > 0).sum()):
        shares = np.maximum(shares, np.minimum(counts, 1))
    deficit = counts * n - shares * total  # total times the distance from the exact share
    while int(shares.sum()) < n:
        c = int(np.argmax(np.where(shares < counts, deficit, np.iinfo(np.int64).min)))
        shares[c] += 1
        deficit[c] -= total
    while int(shares.sum()) > n:
        c = int(np.argmin(np.where(shares > 1, deficit, np.iinfo(np.int64).max)))
        shares[c] -= 1
        deficit[c] += total
    return shares
