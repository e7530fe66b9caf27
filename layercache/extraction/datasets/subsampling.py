"""Seeded draws of rows that come out the same on every machine and under every version of numpy.

`Generator.permutation` may change between numpy versions; the raw stream of PCG64 and the seeding of `SeedSequence` may not.
So a draw sorts rows by raw 64-bit numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def shuffled(n: int, *, seed: int, key: str) -> Array:
    """A permutation of 0..n-1, int64 (n,), that depends on `seed` and `key` (the split's name) alone."""
    stream = np.random.PCG64(np.random.SeedSequence([seed, *key.encode()]))
    return (
        np.argsort(stream.random_raw(n), kind="stable").astype(np.int64)
        if n
        else np.zeros(0, np.int64)
    )


def shares(counts: Array, n: int) -> Array:
    """How many of `n` samples fall to each class: int64 (C,), summing to n, given each class's own count.

    Largest remainder: proportional, off by less than one; but no class that has a sample goes without one while n suffices for all.
    Ties go to the lower class. Integers throughout, so that no rounding of a machine decides.
    """
    counts = counts.astype(np.int64)
    total = int(counts.sum())
    if n >= total:
        return counts
    taken = counts * n // total
    if n >= int((counts > 0).sum()):
        taken = np.maximum(taken, np.minimum(counts, 1))
    owed = counts * n - taken * total  # total times the distance from the exact share
    while int(taken.sum()) < n:
        c = int(np.argmax(np.where(taken < counts, owed, np.iinfo(np.int64).min)))
        taken[c] += 1
        owed[c] -= total
    while int(taken.sum()) > n:
        c = int(np.argmin(np.where(taken > 1, owed, np.iinfo(np.int64).max)))
        taken[c] -= 1
        owed[c] += total
    return taken


def stratified(labels: Array, n: int, *, seed: int, key: str) -> Array:
    """`n` rows out of labels int64 (N,), ascending, each class by its share."""
    order = shuffled(len(labels), seed=seed, key=key)
    drawn = labels[order]
    by_class = order[
        np.argsort(drawn, kind="stable")
    ]  # rows grouped by class, each class in the shuffled order
    counts = np.bincount(labels) if len(labels) else np.zeros(0, np.int64)
    starts = np.cumsum(counts) - counts
    place = np.arange(len(labels)) - np.repeat(starts, counts)
    return np.sort(by_class[place < np.repeat(shares(counts, n), counts)])


def plain(rows: int, n: int, *, seed: int, key: str) -> Array:
    """`n` of `rows` rows, ascending, whatever their labels."""
    return np.sort(shuffled(rows, seed=seed, key=key)[:n])
