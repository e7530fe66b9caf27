"""Rows x (layer, token) pairs of a complete split, read straight into a given buffer.

Shapes: S pairs, n rows, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from shlex import quote
from typing import Any

import numpy as np

from layercache.cache.annotations.column import AnnotationColumn
from layercache.cache.annotations.frame import rows_of
from layercache.cache.format.cache_spec import CacheSpec
from layercache.cache.format.codecs.codec_file import parse_codec
from layercache.cache.format.codecs.token_codec import TokenCodec
from layercache.cache.format.compressor import Compressor
from layercache.cache.format.layout import CODEC_KEY, SplitLayout
from layercache.cache.format.records import REPAIR_HINT, BlockRecord, CompleteRecord
from layercache.cache.format.zarr_metadata import decode_ids
from layercache.cache.reading.chunks import Target, read_chunks, read_compressed
from layercache.cache.reading.page_aligned import empty_page_aligned
from layercache.cache.storage.base import FileSource, Readable, Store
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import CachePath
from layercache.cache.storage.read_cache import CachedFile, ReadCache
from layercache.cache.storage.threads import in_threads
from layercache.errors import CacheCorruptError, OptionError, UnknownNameError

Array = np.ndarray[Any, np.dtype[Any]]
DECODE_ROWS = 4096
"""Codes that are decoded at a time: a few megabytes of float32."""


class Split:
    """A complete split.

    Its rows are those that have tokens: `rows`, `labels`, `ids` and `read` leave out skipped
    samples.
    """

    spec: CacheSpec
    """The cache's."""
    name: str
    path: CachePath
    """The cache's folder."""
    rows: int
    """Number of rows that have tokens."""

    def __init__(
        self,
        layout: SplitLayout,
        files: FileSource,
        complete: CompleteRecord,
        *,
        label: Callable[[], AnnotationColumn | None],
    ) -> None:
        """Open a split; `Cache.split` checks what is given here."""
        self._label = label
        self.spec = layout.spec
        self.name = layout.split
        self.path = files.root
        self._layout = layout
        self._files = files
        self._complete = complete
        self._skipped_rows = np.array(sorted(map(int, complete.skipped)), np.int64)
        self._read_cache: ReadCache | None = None
        self.rows = layout.rows - len(self._skipped_rows)

    @cached_property
    def _store(self) -> Store:
        return open_store(self.path)

    @cached_property
    def labels(self) -> Array:
        """Class numbers of the label, int64 (rows,), -1 for none; uint8 (rows, C) when multi-label.

        Raises:
            OptionError: The cache has no label, or one that is no class.
            CacheCorruptError: The file of the label is damaged.
        """
        column = self._label()
        if column is None:
            raise OptionError(
                f"{self.path}: its dataset has no labels: add them from a table with the columns "
                f"id and label (layercache annotate {quote(str(self.path))} TABLE)"
            )
        if column.kind not in ("class", "multi-label"):
            raise OptionError(
                f"{self.path}: expected classes as label, got {column.kind} numbers: name the "
                "column and the task (target and task; --target label --task regression)"
            )
        values = rows_of(column, self.name, self.kept_rows)
        return values.astype(np.int64) if column.kind == "class" else values

    @cached_property
    def ids(self) -> list[str]:
        """One name per row. Raises CacheCorruptError."""
        skipped = set(self._skipped_rows.tolist())
        if not skipped:
            return self.all_ids
        return [name for row, name in enumerate(self.all_ids) if row not in skipped]

    @cached_property
    def kept_rows(self) -> Array:
        """Position of every row among all samples, skipped ones included: int64 (rows,)."""
        return np.delete(np.arange(self._layout.rows), self._skipped_rows)

    @cached_property
    def skipped(self) -> dict[str, str]:
        """Id of every skipped sample -> reason."""
        return {self.all_ids[int(row)]: why for row, why in self._complete.skipped.items()}

    @cached_property
    def codec(self) -> TokenCodec | None:
        """Codec that stores the tokens, or None. Raises CacheCorruptError."""
        if self.spec.codec is None:
            return None
        data = self._read_file(CODEC_KEY)
        return parse_codec(data, self.spec, where=str(self._files.path(CODEC_KEY)))

    @property
    def saturated(self) -> int | None:
        """Number of int8 codes of numbers outside the range of the sample; None without any."""
        return self._complete.saturated

    @property
    def compressor(self) -> str | None:
        """Compressor as it was given to the writer, or None."""
        return self._complete.compressor

    @property
    def readers(self) -> int:
        """Number of ranges to read at the same time, with one thread each."""
        return self._store.readers

    @property
    def remote(self) -> bool:
        """True if its bytes travel over a network."""
        return self._store.remote

    def use_read_cache(self, cache: ReadCache) -> None:
        """Keep what is read from now on in `cache`, if it comes over a network."""
        if self.remote:
            self._read_cache = cache

    @cached_property
    def blocks(self) -> list[tuple[int, int]]:
        """Row ranges [start, stop), one per file: what to read at a time when streaming."""
        stops = np.array([self._layout.span(b)[1] for b in range(self._layout.blocks)])
        ends = [int(end) for end in self._count_kept(stops)]
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
        """Read tokens; only the bytes that these need are read. Codes are decoded.

        Args:
            pairs: S pairs of layer number and token name.
            rows: [start, stop), default all.
            out: Where to put them, (S, n, D), C-contiguous in its last two axes (a view of a pinned
                torch tensor will do).
            verify: Check the crc32c of every inner chunk the first time that this process reads it
                (such chunks are read whole).
            threads: Number of threads, None for what suits the size and the machine; 1 where the
                caller reads several ranges at a time.

        Returns:
            Tokens (S, n, D) in the storage dtype, in the order of `pairs`.

        Raises:
            OptionError: A layer is not stored, or `rows` or `out` does not fit.
            UnknownNameError: A token is not stored.
            CacheCorruptError: A file is missing, cut or changed.
        """
        if self.codec is None:
            return self.read_stored(pairs, rows=rows, out=out, verify=verify, threads=threads)
        codes = self.read_stored(pairs, rows=rows, verify=verify, threads=threads)
        dtype = np.dtype(self.spec.storage_dtype)
        out = self._check_out(out, (*codes.shape[:2], self.spec.width), dtype)
        for (layer, _), codes_nw, x_nd in zip(pairs, codes, out, strict=True):
            for start in range(0, len(x_nd), DECODE_ROWS):
                part = slice(start, start + DECODE_ROWS)
                x_nd[part] = self.codec.decode(codes_nw[part], self.spec.layers.index(layer))
        return out

    def read_stored(
        self,
        pairs: Sequence[tuple[int, str]],
        *,
        rows: tuple[int, int] | None = None,
        out: Array | None = None,
        verify: bool = True,
        threads: int | None = None,
    ) -> Array:
        """Read tokens as they are stored: with a codec their codes. Arguments: see `read`.

        Returns:
            Tokens (S, n, D) in the storage dtype, or codes (S, n, W) in the dtype of the codec.
        """
        start, stop = (0, self.rows) if rows is None else rows
        if not 0 <= start <= stop <= self.rows:
            raise OptionError(
                f"rows: expected a range within 0 to {self.rows} of split {self.name!r}, got "
                f"{start} to {stop}"
            )
        chunks = [self._chunk(layer, token) for layer, token in pairs]
        out = self._check_out(
            out, (len(chunks), stop - start, self._layout.width), self._layout.dtype
        )
        if out.size == 0:
            return out
        parts = self._cut_at_blocks(start, stop)
        threads = threads or max(
            self._store.threads(out.nbytes), min(len(parts), self._store.requests)
        )
        n_slices = min(len(chunks), -(-threads // len(parts)))  # few blocks: share out their chunks
        jobs = []
        for block, lo, hi, first, last in parts:
            targets = [(k, out[s, first:last]) for s, k in enumerate(chunks)]
            # neighbours stay together: they are one request, or one call
            cuts = [len(targets) * i // n_slices for i in range(n_slices + 1)]
            jobs += [(block, lo, hi, targets[a:b]) for a, b in pairwise(cuts)]
        in_threads(lambda job: self._read_part(*job, verify=verify), jobs, threads=threads)
        return out

    def _read_part(
        self, block: int, lo: int, hi: int, targets: list[Target], *, verify: bool
    ) -> None:
        """Read rows [lo, hi) of a block; the targets have room for those that are not skipped."""
        first = block * self._layout.block_rows + lo
        a, b = np.searchsorted(self._skipped_rows, (first, first + hi - lo))
        if a == b:
            self._read_block(block, (lo, hi), targets, verify=verify)
            return
        shape = (hi - lo, self._layout.width)
        whole = [(k, np.empty(shape, self._layout.dtype)) for k, _ in targets]
        self._read_block(block, (lo, hi), whole, verify=verify)
        for (_, tokens), (_, kept) in zip(whole, targets, strict=True):
            kept[...] = np.delete(tokens, self._skipped_rows[a:b] - first, axis=0)

    def _read_block(
        self, block: int, rows: tuple[int, int], targets: list[Target], *, verify: bool
    ) -> None:
        with self._open_shard(block) as file:
            if self._complete.compressor:
                read_compressed(
                    file,
                    self._layout,
                    rows,
                    targets,
                    record=self._record(block),
                    compressor=Compressor(self._complete.compressor),
                )
            else:
                read_chunks(
                    file,
                    self._layout,
                    rows,
                    targets,
                    record=(lambda: self._record(block)) if verify else None,
                    batch_bytes=self._store.batch_bytes,
                )

    @contextmanager
    def _open_shard(self, block: int) -> Iterator[Readable]:
        """Open a shard. Raises CacheCorruptError if it is missing, or ends before its length."""
        key = self._layout.shard(block)
        try:
            with self._store.open(key) as file:
                yield CachedFile(file, self._read_cache) if self._read_cache else file
        except FileNotFoundError:
            raise CacheCorruptError(
                f"{self._store.path(key)}: row block {block} of {self._layout.blocks} is missing; "
                f"{REPAIR_HINT}"
            ) from None
        except EOFError as e:
            raise CacheCorruptError(f"{self._store.path(key)}: {e}; {REPAIR_HINT}") from None

    def _cut_at_blocks(self, start: int, stop: int) -> list[tuple[int, int, int, int, int]]:
        """Cut rows [start, stop) at the blocks: (block, lo, hi, first, last).

        lo and hi count within the block, skipped rows included.

        first and last are where the rows that are not skipped go in the output.
        """
        # Kept row i is row i + k of the split, where k skipped rows come before it.
        before = self._skipped_rows - np.arange(len(self._skipped_rows))
        begin, end = (i + int(np.searchsorted(before, i, side="right")) for i in (start, stop - 1))
        r = self._layout.block_rows
        cuts = np.array([begin, *range((begin // r + 1) * r, end + 1, r), end + 1])
        outputs = (self._count_kept(cuts) - start).tolist()
        rows = cuts.tolist()
        return [
            (rows[i] // r, rows[i] % r, rows[i + 1] - rows[i] // r * r, outputs[i], outputs[i + 1])
            for i in range(len(rows) - 1)
            if outputs[i] < outputs[i + 1]
        ]

    def _count_kept(self, rows: Array) -> Array:
        """Return how many rows before each of these are not skipped."""
        return np.asarray(rows - np.searchsorted(self._skipped_rows, rows))

    def _chunk(self, layer: int, token: str) -> int:
        """Return the number of an inner chunk."""
        if layer not in self.spec.layers:
            stored = ", ".join(map(str, self.spec.layers))
            raise OptionError(f"layer {layer} is not in {self.path}, which stores {stored}")
        if token not in self.spec.tokens:
            raise UnknownNameError("token", token, self.spec.tokens)
        return self.spec.layers.index(layer) * len(self.spec.tokens) + self.spec.tokens.index(token)

    def _check_out(
        self, out: Array | None, shape: tuple[int, int, int], dtype: np.dtype[Any]
    ) -> Array:
        if out is None:
            return empty_page_aligned(shape, dtype)
        if out.shape != shape or out.dtype != dtype or not all(o.flags.c_contiguous for o in out):
            raise OptionError(
                f"out: expected {dtype} {shape}, contiguous in its last two axes; got {out.dtype} "
                f"{out.shape}, strides {out.strides}"
            )
        return out

    def _record(self, block: int) -> BlockRecord:
        """Return the commit record of a block, checked by the digest in the complete record."""
        key = self._layout.record(block)
        where = str(self._files.path(key))
        return BlockRecord.of_block(
            self._read_file(key), self._layout, block, where=where, checked=True
        )

    def _read_array(self, name: str) -> dict[str, bytes]:
        """Return the files of a small array, metadata included, all of them checked."""
        prefix = f"{self._layout.group}/{name}/"
        keys = [key for key in self._complete.files if key.startswith(prefix)]
        return {key: self._read_file(key) for key in keys}

    def _read_file(self, key: str) -> bytes:
        """Return a file that has the digest of the complete record. Raises CacheCorruptError."""
        try:
            data = self._files.read(key)
        except FileNotFoundError:
            raise CacheCorruptError(f"{self._files.path(key)} is missing; {REPAIR_HINT}") from None
        if sha256(data).hexdigest() != self._complete.files.get(key):
            raise CacheCorruptError(
                f"{self._files.path(key)}: SHA-256 is not the one of the complete record; "
                f"{REPAIR_HINT}"
            )
        return data

    @cached_property
    def all_ids(self) -> list[str]:
        """Ids of all samples, skipped ones included. Raises CacheCorruptError."""
        data = self._read_array("id")[self._layout.id]
        with self._translate_errors(self._layout.id):
            ids = decode_ids(data)
            if len(ids) != self._layout.rows:
                raise ValueError(f"expected {self._layout.rows} ids, got {len(ids)}")
        return ids

    @contextmanager
    def _translate_errors(self, key: str) -> Iterator[None]:
        """Turn ValueError into CacheCorruptError with the path of the file."""
        try:
            yield
        except ValueError as e:
            raise CacheCorruptError(f"{self._files.path(key)}: {e}; {REPAIR_HINT}") from None
