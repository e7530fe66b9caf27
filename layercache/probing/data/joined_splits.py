"""Several splits of one cache read as one: the training split followed by the validation split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from layercache.cache.format.cache_spec import CacheSpec
from layercache.cache.format.codecs.token_codec import TokenCodec
from layercache.cache.reading.split import Split
from layercache.cache.storage.paths import CachePath
from layercache.cache.storage.read_cache import ReadCache

Array = np.ndarray[Any, np.dtype[Any]]


class JoinedSplits:
    """The rows of several splits, one split after another, with what a probe needs of a `Split`."""

    spec: CacheSpec
    """The cache's."""
    name: str
    """Names of the splits, joined by "+"."""
    path: CachePath
    """The cache's folder."""
    rows: int
    """Number of rows of all splits."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self.splits = tuple(splits)
        """The splits in order."""
        self.spec, self.path = splits[0].spec, splits[0].path
        self.name = "+".join(split.name for split in splits)
        self.starts = np.cumsum([0, *(split.rows for split in splits)]).tolist()
        """First row of each split, and the number of all rows."""
        self.rows = self.starts[-1]

    @cached_property
    def labels(self) -> Array:
        """Labels, int64 (rows,), or uint8 (rows, C) when multi-label."""
        return np.concatenate([split.labels for split in self.splits])

    @cached_property
    def ids(self) -> list[str]:
        """One name per row, unique within its split."""
        return list(chain.from_iterable(split.ids for split in self.splits))

    @property
    def readers(self) -> int:
        """Number of ranges to read at the same time, with one thread each."""
        return self.splits[0].readers

    @property
    def remote(self) -> bool:
        """True if its bytes travel over a network."""
        return self.splits[0].remote

    def use_read_cache(self, cache: ReadCache) -> None:
        """Keep what is read from now on in `cache`, if it comes over a network."""
        for split in self.splits:
            split.use_read_cache(cache)

    @cached_property
    def blocks(self) -> list[tuple[int, int]]:
        """Row ranges [start, stop), one per file."""
        return [
            (start + a, start + b)
            for split, start in zip(self.splits, self.starts, strict=False)
            for a, b in split.blocks
        ]

    def read_stored(
        self,
        pairs: Sequence[tuple[int, str]],
        *,
        rows: tuple[int, int] | None = None,
        out: Array | None = None,
        threads: int | None = None,
    ) -> Array:
        """Read tokens or codes (S, n, W) of a range of rows; see `Split.read_stored`."""
        start, stop = (0, self.rows) if rows is None else rows
        if out is None:
            shape = (len(pairs), stop - start, self.spec.code_width)
            out = np.empty(shape, self.spec.code_dtype)
        for split, part, own_rows in self._cut(start, stop):
            split.read_stored(pairs, rows=own_rows, out=out[:, part], threads=threads)
        return out

    def _cut(self, start: int, stop: int) -> Iterator[tuple[Split, slice, tuple[int, int]]]:
        """Yield each split of a range, its place in the range, and its own rows."""
        for split, first in zip(self.splits, self.starts, strict=False):
            a, b = max(start, first), min(stop, first + split.rows)
            if a < b:
                yield split, slice(a - start, b - start), (a - first, b - first)

    @property
    def codec(self) -> TokenCodec | None:
        """Codec that stores the tokens of all splits, or None."""
        return self.splits[0].codec


AnySplit = Split | JoinedSplits
"""A split that a probe reads."""


def over_splits(function: Callable[[Split], Array], split: AnySplit) -> Array:
    """Return an array of a split, or of each of the joined ones, one after another."""
    if isinstance(split, JoinedSplits):
        return np.concatenate([function(part) for part in split.splits])
    return function(split)
