"""Reading rows x (layer, token) pairs of a complete split straight into a given buffer.

Shapes: S pairs, n rows, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np

from layercache.cache.format.layout import SplitLayout
from layercache.cache.format.records import REMEDY, BlockRecord, CompleteRecord
from layercache.cache.format.shard import Codec
from layercache.cache.format.spec import CacheSpec
from layercache.cache.format.zarr_group import read_ids, read_labels, read_zarr
from layercache.cache.reading.chunks import check_stored, read_chunks, read_compressed
from layercache.cache.storage.base import Store
from layercache.cache.storage.paths import CachePath
from layercache.cache.storage.read_cache import Spool
from layercache.cache.storage.s3 import ObjectStore
from layercache.cache.storage.threads import in_threads
from layercache.errors import CacheCorruptError, OptionError, UnknownNameError

Array = np.ndarray[Any, np.dtype[Any]]


class Split:
    """A complete split. Rows are those that have tokens: skipped samples are left out of `rows`, `labels`, `ids` and `read`."""

    spec: CacheSpec
    """The cache's."""
    name: str
    path: CachePath
    """The cache's folder."""
    rows: int
    """Number of rows that have tokens."""

    def __init__(self, layout: SplitLayout, store: Store, complete: CompleteRecord) -> None:
        """Made by `Cache.split`."""
        self.spec = layout.spec
        self.name = layout.split
        self.path = store.root
        self._layout = layout
        self._store = store
        self._complete = complete
        self._left_out = np.array(sorted(map(int, complete.skipped)), np.int64)
        self.rows = layout.rows - len(self._left_out)

    @cached_property
    def labels(self) -> Array:
        """int64 (rows,), or uint8 (rows, C) when multi-label. Raises CacheCorruptError."""
        self._check_files("label")
        return np.delete(read_labels(self._store, self._layout), self._left_out, axis=0)

    @cached_property
    def ids(self) -> list[str]:
        """One name per row. Raises CacheCorruptError."""
        left_out = set(self._left_out.tolist())
        return (
            [i for row, i in enumerate(self._all_ids) if row not in left_out]
            if left_out
            else self._all_ids
        )

    @cached_property
    def skipped(self) -> dict[str, str]:
        """Id of every sample that was skipped -> why."""
        return {self._all_ids[int(row)]: why for row, why in self._complete.skipped.items()}

    @property
    def codec(self) -> str | None:
        """The compressor, as it was given to the writer, or None."""
        return self._complete.codec

    @property
    def readers(self) -> int:
        """Ranges that are worth being read at the same time, each with one thread."""
        return self._store.readers

    @property
    def remote(self) -> bool:
        """Its bytes come over a network."""
        return isinstance(self._store, ObjectStore)

    def keep_in(self, spool: Spool) -> None:
        """Keep on the local disk what is read from now on, where it comes over a network; so do the other splits of this `Cache`."""
        if isinstance(self._store, ObjectStore):
            self._store.spool = spool

    @cached_property
    def blocks(self) -> list[tuple[int, int]]:
        """Row ranges [start, stop) that one file holds each: what to read at a time when streaming."""
        ends = [
            int(e)
            for e in self._kept(
                np.array([self._layout.span(b)[1] for b in range(self._layout.blocks)])
            )
        ]
        return [(a, b) for a, b in zip([0, *ends], ends, strict=False) if a < b]

    def read(
        self,
        pairs: Sequence[tuple[int, str]],
        *,
        rows: tuple[int, int] | None = None,
        out: Array | None = None,
        verify: bool = True,
        threads: int | None = None,
    ) -> Array:
        """Tokens (S, n, D) in the store dtype, in the order of `pairs`; only the bytes that these need are read.

        rows: [start, stop), default all. out: where to put them, C-contiguous in its last two axes (a view of a pinned torch tensor will do).
        verify: check the crc32c of every inner chunk the first time that this process reads it (such chunks are read whole).
        threads: how many read, None for what suits the size and the machine; 1 where the caller reads several ranges at a time itself.

        Raises OptionError, UnknownNameError, CacheCorruptError (a file is missing, cut or changed).
        """
        start, stop = (0, self.rows) if rows is None else rows
        if not 0 <= start <= stop <= self.rows:
            raise OptionError(
                f"rows {start} to {stop}: split {self.name!r} has the rows 0 to {self.rows}"
            )
        chunks = [self._chunk(layer, token) for layer, token in pairs]
        out = self._destination(out, (len(chunks), stop - start, self.spec.width))
        if out.size == 0:
            return out
        parts = self._parts(start, stop)
        threads = threads or max(
            self._store.threads(out.nbytes), min(len(parts), self._store.requests)
        )
        slices = min(
            len(chunks), -(-threads // len(parts))
        )  # few blocks: their chunks are shared out
        jobs = []
        for block, lo, hi, first, last in parts:
            wanted = [(k, out[s, first:last]) for s, k in enumerate(chunks)]
            # neighbours stay together: they are one request, or one call
            jobs += [
                (block, lo, hi, wanted[len(wanted) * i // slices : len(wanted) * (i + 1) // slices])
                for i in range(slices)
            ]
        in_threads(lambda job: self._read_part(*job, verify=verify), jobs, threads=threads)
        return out

    def _read_part(
        self, block: int, lo: int, hi: int, wanted: list[tuple[int, Array]], *, verify: bool
    ) -> None:
        """Rows [lo, hi) of a block, skipped ones among them, to destinations that have room for the kept ones."""
        first = block * self._layout.block_rows
        gaps = self._left_out
        if len(gaps):
            gaps = gaps[np.searchsorted(gaps, first + lo) : np.searchsorted(gaps, first + hi)] - (
                first + lo
            )
        targets = (
            [(k, np.empty((hi - lo, self.spec.width), self._layout.dtype)) for k, _ in wanted]
            if len(gaps)
            else wanted
        )
        if self._complete.codec and self.remote:
            record, codec = self._record(block), Codec(self._complete.codec)
            read_compressed(
                self._store, self._layout, block, (lo, hi), targets, record=record, codec=codec
            )
        elif self._complete.codec:
            self._check_shard(block, [k for k, _ in wanted])
            read_zarr(self._store, block, (first + lo, first + hi), self._layout, targets)
        else:
            read_chunks(
                self._store,
                self._layout,
                block,
                (lo, hi),
                targets,
                record=self._record if verify else None,
            )
        if len(gaps):
            for (_, whole), (_, kept) in zip(targets, wanted, strict=True):
                kept[...] = np.delete(whole, gaps, axis=0)

    def _parts(self, start: int, stop: int) -> list[tuple[int, int, int, int, int]]:
        """Rows [start, stop) cut at the blocks: (block, lo, hi, first, last); lo and hi count within the block, skipped rows included.

        first and last are where its kept rows go in the output.
        """
        # Kept row i is row i + k of the split, where k skipped rows come before it.
        begin, end = (
            i
            + int(np.searchsorted(self._left_out - np.arange(len(self._left_out)), i, side="right"))
            for i in (start, stop - 1)
        )
        r = self._layout.block_rows
        cuts = np.array([begin, *range((begin // r + 1) * r, end + 1, r), end + 1])
        places = (self._kept(cuts) - start).tolist()
        rows = cuts.tolist()
        return [
            (rows[i] // r, rows[i] % r, rows[i + 1] - rows[i] // r * r, places[i], places[i + 1])
            for i in range(len(rows) - 1)
            if places[i] < places[i + 1]
        ]

    def _kept(self, rows: Array) -> Array:
        """How many rows before each of these are kept."""
        return np.asarray(rows - np.searchsorted(self._left_out, rows))

    def _chunk(self, layer: int, token: str) -> int:
        if layer not in self.spec.layers:
            raise OptionError(
                f"layer {layer} is not in {self._store.root}, which stores {', '.join(map(str, self.spec.layers))}"
            )
        if token not in self.spec.tokens:
            raise UnknownNameError("token", token, self.spec.tokens)
        return self.spec.layers.index(layer) * len(self.spec.tokens) + self.spec.tokens.index(token)

    def _destination(self, out: Array | None, shape: tuple[int, int, int]) -> Array:
        dtype = self._layout.dtype
        if out is None:
            return np.empty(shape, dtype)
        if out.shape != shape or out.dtype != dtype or not all(o.flags.c_contiguous for o in out):
            raise OptionError(
                f"out: expected {dtype} {shape}, contiguous in its last two axes; came {out.dtype} {out.shape}, strides {out.strides}"
            )
        return out

    def _record(self, block: int) -> BlockRecord:
        """The commit record of a block, as the complete record vouches for it."""
        layout = self._layout
        key = layout.record(block)
        record = BlockRecord.from_bytes(self._check_file(key), where=key, checked=True)
        if (record.fingerprint, record.split, record.block) != (
            self.spec.fingerprint,
            self.name,
            block,
        ):
            of = f"{record.fingerprint[:12]}, {record.split!r}, {record.block}"
            raise CacheCorruptError(
                f"{self._store.path(key)}: belongs to another cache, split or block ({of}); {REMEDY}"
            )
        return record

    def _check_shard(self, block: int, chunks: Sequence[int]) -> None:
        """Zarr reads a missing shard as fill values, and cannot know that a chunk is another block's: so neither must reach it."""
        key, record = self._layout.shard(block), self._record(block)
        try:
            with self._store.open(key) as file:
                if file.size != record.bytes:
                    raise CacheCorruptError(
                        f"{file.path}: expected {record.bytes} bytes, came {file.size}; {REMEDY}"
                    )
                check_stored(file, self._layout, record, chunks)
        except FileNotFoundError:
            raise CacheCorruptError(
                f"{self._store.path(key)}: row block {block} of {self._layout.blocks} is missing; {REMEDY}"
            ) from None

    def _check_files(self, array: str) -> None:
        prefix = f"{self._layout.group}/{array}/"
        for key in self._complete.files:
            if key.startswith(prefix):
                self._check_file(key)

    def _check_file(self, key: str) -> bytes:
        try:
            data = self._store.read(key)
        except FileNotFoundError:
            raise CacheCorruptError(f"{self._store.path(key)} is missing; {REMEDY}") from None
        if sha256(data).hexdigest() != self._complete.files.get(key):
            raise CacheCorruptError(
                f"{self._store.path(key)}: SHA-256 is not the one of the complete record; {REMEDY}"
            )
        return data

    @cached_property
    def _all_ids(self) -> list[str]:
        self._check_files("id")
        return read_ids(self._store, self._layout)
