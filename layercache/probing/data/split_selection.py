"""Tokens and rows of a cached split that a probe reads.

Shapes: N kept rows, S tokens of a row (pairs of layer and token name), D width, W numbers of a
code, C classes. Tokens on disk and in memory are (S, N, D) in the cache's dtype; codes (S, N, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from layercache.cache.format.codecs.token_codec import TokenCodec
from layercache.cache.storage.threads import in_threads
from layercache.errors import HeadMismatchError, NonFiniteError
from layercache.probing.data.joined_splits import AnySplit

Pair = tuple[int, str]
RowRange = tuple[int, int]
"""First row, and the row after the last."""


@dataclass(frozen=True, eq=False)
class TokenSource:
    """Some tokens of one cached split."""

    split: AnySplit
    """The split."""
    pairs: tuple[Pair, ...]
    """(layer, token name), in the order in which the head sees them."""


@dataclass(frozen=True, eq=False)
class TokenArray:
    """Tokens that are in one array in memory: those of a source, or of several without a codec."""

    sources: tuple[TokenSource, ...]
    """Sources of the tokens, in order."""
    width: int
    """D, or W with a codec."""
    dtype: np.dtype[Any]
    """Dtype of the array."""

    @property
    def tokens(self) -> int:
        """Number of tokens of a row, S_i."""
        return sum(len(source.pairs) for source in self.sources)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.tokens * self.width * self.dtype.itemsize

    def continues_with(self, other: TokenArray) -> bool:
        """Return whether the next tokens can be in the same array: no codec, width and dtype."""
        layout, others = (self.width, self.dtype), (other.width, other.dtype)
        return self.codec is None and other.codec is None and layout == others

    @property
    def codec(self) -> TokenCodec | None:
        """Codec of the tokens, or None."""
        return self.sources[0].split.codec

    @property
    def layers(self) -> list[int]:
        """Layer of each token, as an index among the stored layers of its source."""
        return [s.split.spec.layers.index(layer) for s in self.sources for layer, _ in s.pairs]


@dataclass(frozen=True, eq=False)
class SplitSelection:
    """The tokens of one or more sources, concatenated along S, for some rows of a split."""

    sources: tuple[TokenSource, ...]
    """Caches of the same images in the same order, made by one encoder or by several."""
    kept_rows: np.ndarray[Any, np.dtype[np.int64]]
    """(N,) ascending row numbers of the split."""

    def __post_init__(self) -> None:
        first = self.sources[0].split
        for other in (source.split for source in self.sources[1:]):
            if other.ids != first.ids:
                raise HeadMismatchError(
                    f"expected two caches of the same samples in split {first.name!r}, got "
                    f"{first.rows} and {other.rows} rows whose ids differ: extract both with the "
                    "same dataset, limit and on_error"
                )

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """(layer, token name) of the S tokens."""
        return tuple(pair for source in self.sources for pair in source.pairs)

    @property
    def width(self) -> int:
        """D, the largest width of a source; narrower tokens are padded with zeros."""
        return max(source.split.spec.width for source in self.sources)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of tokens that no codec stores, or that are decoded to be kept."""
        return np.dtype(self.sources[0].split.spec.storage_dtype)

    @cached_property
    def arrays(self) -> tuple[TokenArray, ...]:
        """The arrays that hold the tokens in memory, in the order of the sources."""
        arrays: list[TokenArray] = []
        for source in self.sources:
            spec = source.split.spec
            array = TokenArray((source,), spec.code_width, spec.code_dtype)
            if arrays and arrays[-1].continues_with(array):
                array = replace(array, sources=(*arrays.pop().sources, source))
            arrays.append(array)
        return tuple(arrays)

    @property
    def row_bytes(self) -> int:
        """Bytes of the S tokens of one row, as stored."""
        return sum(array.row_bytes for array in self.arrays)

    @property
    def nbytes(self) -> int:
        """Bytes of all tokens, as stored."""
        return len(self.kept_rows) * self.row_bytes

    @property
    def keeps_all_rows(self) -> bool:
        """True if every row of the split is kept."""
        return len(self.kept_rows) == self.sources[0].split.rows

    @property
    def remote(self) -> bool:
        """True if a source is read over a network."""
        return any(source.split.remote for source in self.sources)

    @cached_property
    def labels(self) -> np.ndarray[Any, Any]:
        """Labels of the kept rows, (N,) int64 or (N, C) uint8."""
        labels: np.ndarray[Any, Any] = self.sources[0].split.labels[self.kept_rows]
        return labels

    @cached_property
    def blocks(self) -> list[RowRange]:
        """Row blocks of the first source that have a kept row."""
        return [
            (a, b)
            for a, b in self.sources[0].split.blocks
            if np.searchsorted(self.kept_rows, b) > np.searchsorted(self.kept_rows, a)
        ]

    @property
    def max_block_rows(self) -> int:
        """Rows of the largest of `blocks`, 0 without any."""
        return max((b - a for a, b in self.blocks), default=0)

    def read(
        self, rows: RowRange, out: Sequence[np.ndarray[Any, Any]], *, threads: int | None = None
    ) -> None:
        """Read a range of rows of the split, kept or not.

        A range is checked for values that are not finite when it is read first; that its bytes stay
        the same is checked by the cache.

        Args:
            rows: Range of rows.
            out: What each of `arrays` is written to, (S_i, rows, D or W).
            threads: Number of threads; None lets the cache choose.

        Raises:
            NonFiniteError: A token is not finite.
        """
        for array, out_snd in zip(self.arrays, out, strict=True):
            start = 0
            for source in array.sources:
                stop = start + len(source.pairs)
                source.split.read_stored(
                    source.pairs, rows=rows, out=out_snd[start:stop], threads=threads
                )
                start = stop
            if array.codec is None and rows not in self._finite_ranges:
                self._check_finite(rows, out_snd, array)
        self._finite_ranges.add(rows)

    def read_blocks(
        self, targets: Sequence[tuple[RowRange, Sequence[np.ndarray[Any, Any]]]]
    ) -> None:
        """Read several row blocks concurrently.

        Each block is read by one thread. Over a network, where a few blocks would leave threads
        idle, each block is read by as many requests as it is worth.

        Args:
            targets: (rows, out) as for `read`.
        """
        n_threads = min(source.split.readers for source in self.sources)
        per_block = None if n_threads == 1 or (self.remote and len(targets) < n_threads) else 1
        in_threads(lambda target: self.read(*target, threads=per_block), targets, threads=n_threads)

    @cached_property
    def _finite_ranges(self) -> set[RowRange]:
        """Ranges that were read and found finite."""
        return set()

    def _check_finite(self, rows: RowRange, x_snd: np.ndarray[Any, Any], array: TokenArray) -> None:
        # Read as integers, the values that are not finite are those from the bits of infinity on,
        # for either sign: two maxima find them at the speed of memory without a temporary array.
        n_bits = 8 * x_snd.itemsize
        infinity = int(np.array(np.inf, x_snd.dtype).view(f"u{x_snd.itemsize}"))
        if not x_snd.size or (
            x_snd.view(f"i{x_snd.itemsize}").max() < infinity
            and x_snd.view(f"u{x_snd.itemsize}").max() < infinity + 2 ** (n_bits - 1)
        ):
            return
        s, n, _ = (int(i) for i in np.argwhere(~np.isfinite(x_snd))[0])
        tokens = [(source, pair) for source in array.sources for pair in source.pairs]
        source, (layer, token) = tokens[s]
        split = source.split
        remedy = "probe other layers, and check the cache with `layercache cache verify`"
        if x_snd.dtype == np.float16:
            remedy = (
                'extract it again with storage_dtype="float32" (--storage-dtype float32), which '
                "makes another cache"
            )
        raise NonFiniteError(
            f"layer {layer}, token {token!r} of sample {split.ids[rows[0] + n]!r} ({split.name}) "
            f"is not finite in the cache of {split.spec.model} on {split.spec.dataset.name}: "
            f"{remedy}"
        )
