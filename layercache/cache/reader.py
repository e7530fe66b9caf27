"""Opening caches, and reading rows x (layer, token) pairs of a split straight into a given buffer.

Shapes: S pairs, n rows, D width, C classes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from layercache.cache.group import read_ids, read_labels, read_zarr
from layercache.cache.layout import SPEC_KEY, SplitLayout, cache_folder, safe_name
from layercache.cache.ranges import read_chunks
from layercache.cache.records import REMEDY, BlockRecord, CompleteRecord
from layercache.cache.spec import CacheSpec
from layercache.cache.store import LocalStore
from layercache.cache.threads import available_cores, in_threads
from layercache.errors import CacheAmbiguousError, CacheCorruptError, CacheIncompleteError, CacheNotFoundError, OptionError, UnknownNameError

Array = np.ndarray[Any, np.dtype[Any]]

HOME = "LAYERCACHE_HOME"
MAX_THREADS = 8
BYTES_PER_THREAD = 2 * 2**20
"""A thread more is worth its start from here on."""


def cache_root(path: str | Path | None = None) -> Path:
    """The folder of all caches: `path` (--cache), else $LAYERCACHE_HOME, else the user cache folder of the platform."""
    if path is not None:
        return Path(path).expanduser()
    if home := os.environ.get(HOME):
        return Path(home).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("layercache"))


@dataclass(frozen=True)
class Cache:
    """One cache: the tokens of one backbone on one data set."""

    path: Path
    """ROOT/<dataset>/<model>/<fingerprint, 12 hex>."""
    spec: CacheSpec
    """What determined its bytes."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that were begun, complete or not, in the data set's order."""
        return tuple(s for s in self.spec.dataset.splits if (self.path / SplitLayout(self.spec, s).group).is_dir())

    def progress(self, split: str) -> tuple[int, int]:
        """Row blocks with a commit record, and row blocks in all."""
        layout = SplitLayout(self.spec, split)
        return sum((self.path / layout.record(b)).is_file() for b in range(layout.blocks)), layout.blocks

    def complete(self, split: str) -> bool:
        """Whether the split has its complete record."""
        return (self.path / SplitLayout(self.spec, split).complete).is_file()

    def split(self, name: str) -> Split:
        """A complete split. Raises UnknownNameError, CacheIncompleteError (saying how to go on), CacheCorruptError."""
        layout = SplitLayout(self.spec, name)
        store = LocalStore(self.path)
        try:
            data = store.read(layout.complete)
        except FileNotFoundError:
            done, blocks = self.progress(name)
            raise CacheIncompleteError(
                f"{self.path}: split {name!r} is incomplete: {done} of {blocks} row blocks are there. To continue, run the same extraction again: "
                f"{extract_command(self)}"
            ) from None
        where = str(store.path(layout.complete))
        complete = CompleteRecord.from_bytes(data, where=where)
        if (complete.fingerprint, complete.split, complete.rows) != (self.spec.fingerprint, name, layout.rows):
            raise CacheCorruptError(f"{where}: belongs to another cache or split ({complete.fingerprint[:12]}, {complete.split!r}); {REMEDY}")
        return Split(self, layout, store, complete)


class Split:
    """A complete split. Rows are those that have tokens: skipped samples are left out of `rows`, `labels`, `ids` and `read`."""

    def __init__(self, cache: Cache, layout: SplitLayout, store: LocalStore, complete: CompleteRecord) -> None:
        self.cache = cache
        self.spec = cache.spec
        self.name = layout.split
        self._layout = layout
        self._store = store
        self._complete = complete
        self._left_out = np.array(sorted(map(int, complete.skipped)), np.int64)
        self.rows = layout.rows - len(self._left_out)

    @cached_property
    def labels(self) -> Array:
        """int64 (rows,), or uint8 (rows, C) when multi-label. Raises CacheCorruptError."""
        self._check_files("label")
        return np.delete(read_labels(self._store.path(self._layout.group)), self._left_out, axis=0)

    @cached_property
    def ids(self) -> list[str]:
        """One name per row. Raises CacheCorruptError."""
        return [i for row, i in enumerate(self._all_ids) if str(row) not in self._complete.skipped]

    @cached_property
    def skipped(self) -> dict[str, str]:
        """Id of every sample that was skipped -> why."""
        return {self._all_ids[int(row)]: why for row, why in self._complete.skipped.items()}

    @cached_property
    def blocks(self) -> list[tuple[int, int]]:
        """Row ranges [start, stop) that one file holds each: what to read at a time when streaming."""
        ends = [int(e) for e in self._kept(np.array([self._layout.span(b)[1] for b in range(self._layout.blocks)]))]
        return [(a, b) for a, b in zip([0, *ends], ends, strict=False) if a < b]

    def read(self, pairs: Sequence[tuple[int, str]], *, rows: tuple[int, int] | None = None, out: Array | None = None, verify: bool = True) -> Array:
        """Tokens (S, n, D) in the store dtype, in the order of `pairs`; only the bytes that these need are read.

        rows: [start, stop), default all. out: where to put them, C-contiguous in its last two axes (a view of a pinned torch tensor will do).
        verify: check the crc32c of every inner chunk the first time that this process reads it (such chunks are read whole).

        Raises OptionError, UnknownNameError, CacheCorruptError (a file is missing, cut or changed).
        """
        start, stop = (0, self.rows) if rows is None else rows
        if not 0 <= start <= stop <= self.rows:
            raise OptionError(f"rows {start} to {stop}: split {self.name!r} has the rows 0 to {self.rows}")
        chunks = [self._chunk(layer, token) for layer, token in pairs]
        out = self._destination(out, (len(chunks), stop - start, self.spec.width))
        if out.size == 0:
            return out
        parts = self._parts(start, stop)
        threads = min(MAX_THREADS, available_cores(), -(-out.nbytes // BYTES_PER_THREAD))
        slices = min(len(chunks), -(-threads // len(parts)))  # few blocks: their chunks are shared out
        jobs = []
        for block, lo, hi, first, last in parts:
            wanted = [(k, out[s, first:last]) for s, k in enumerate(chunks)]
            jobs += [(block, lo, hi, wanted[i::slices]) for i in range(slices)]
        in_threads(lambda job: self._read_part(*job, verify=verify), jobs, threads=threads)
        return out

    def _read_part(self, block: int, lo: int, hi: int, wanted: list[tuple[int, Array]], *, verify: bool) -> None:
        """Rows [lo, hi) of a block, skipped ones among them, to destinations that have room for the kept ones."""
        first = block * self._layout.block_rows
        gaps = self._left_out[np.searchsorted(self._left_out, first + lo) : np.searchsorted(self._left_out, first + hi)] - (first + lo)
        targets = [(k, np.empty((hi - lo, self.spec.width), self._layout.dtype)) for k, _ in wanted] if len(gaps) else wanted
        if self._complete.codec:
            self._record(block)
            read_zarr(self._store.path(self._layout.group), block, (first + lo, first + hi), self._layout, targets)
        else:
            read_chunks(self._store, self._layout, block, (lo, hi), targets, record=self._record if verify else None)
        if len(gaps):
            for (_, whole), (_, kept) in zip(targets, wanted, strict=True):
                kept[...] = np.delete(whole, gaps, axis=0)

    def _parts(self, start: int, stop: int) -> list[tuple[int, int, int, int, int]]:
        """Rows [start, stop) cut at the blocks: (block, lo, hi, first, last); lo and hi count within the block, skipped rows included.

        first and last are where its kept rows go in the output.
        """
        # Kept row i is row i + k of the split, where k skipped rows come before it.
        begin, end = (i + int(np.searchsorted(self._left_out - np.arange(len(self._left_out)), i, side="right")) for i in (start, stop - 1))
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
            raise OptionError(f"layer {layer} is not in {self.cache.path}, which stores {', '.join(map(str, self.spec.layers))}")
        if token not in self.spec.tokens:
            raise UnknownNameError("token", token, self.spec.tokens)
        return self.spec.layers.index(layer) * len(self.spec.tokens) + self.spec.tokens.index(token)

    def _destination(self, out: Array | None, shape: tuple[int, int, int]) -> Array:
        dtype = self._layout.dtype
        if out is None:
            return np.empty(shape, dtype)
        if out.shape != shape or out.dtype != dtype or not all(o.flags.c_contiguous for o in out):
            raise OptionError(f"out: expected {dtype} {shape}, contiguous in its last two axes; came {out.dtype} {out.shape}, strides {out.strides}")
        return out

    def _record(self, block: int) -> BlockRecord:
        layout = self._layout
        key = layout.record(block)
        where = str(self._store.path(key))
        data = self._check_file(key)
        record = BlockRecord.from_bytes(data, where=where, checked=True)
        if (record.fingerprint, record.split, record.block) != (self.spec.fingerprint, self.name, block):
            raise CacheCorruptError(
                f"{where}: belongs to another cache, split or block ({record.fingerprint[:12]}, {record.split!r}, {record.block}); {REMEDY}"
            )
        size = self._store.size(layout.shard(block))
        if size != record.bytes:
            what = "is missing" if size is None else f"has {size} bytes"
            raise CacheCorruptError(f"{self._store.path(layout.shard(block))}: {what}, expected {record.bytes} bytes; {REMEDY}")
        return record

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
        if hashlib.sha256(data).hexdigest() != self._complete.files.get(key):
            raise CacheCorruptError(f"{self._store.path(key)}: SHA-256 is not the one of the complete record; {REMEDY}")
        return data

    @cached_property
    def _all_ids(self) -> list[str]:
        self._check_files("id")
        return read_ids(self._store.path(self._layout.group))


def load_cache(path: Path) -> Cache:
    """The cache in a folder. Raises CacheNotFoundError, CacheCorruptError (its spec is not the one that the folder is named after)."""
    file = path / SPEC_KEY
    try:
        value = json.loads(file.read_bytes())
        fingerprint = value.pop("fingerprint")
        spec = CacheSpec.from_json(value)
    except FileNotFoundError:
        raise CacheNotFoundError(f"{path} is no cache: it has no {SPEC_KEY}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise CacheCorruptError(f"{file}: not a cache's spec ({e!r}); {REMEDY}") from None
    if spec.fingerprint != fingerprint or path.resolve().name != fingerprint[:12]:
        raise CacheCorruptError(f"{file}: its fingerprint is {spec.fingerprint[:12]}, the folder's is {path.resolve().name}; {REMEDY}")
    return Cache(path, spec)


def cache_folders(root: Path, *, model: str | None = None, dataset: str | None = None) -> list[Path]:
    """Folders of caches below a root, sorted."""
    pattern = f"{_glob(dataset)}/{_glob(model)}/*/{SPEC_KEY}"
    return sorted(p.parent for p in root.glob(pattern))


def find_caches(root: Path, model: str | None = None, dataset: str | None = None) -> list[Cache]:
    """All caches below a root, or those of a model or data set. Raises CacheCorruptError if a spec is not readable."""
    return [load_cache(p) for p in cache_folders(root, model=model, dataset=dataset)]


def open_cache(
    path: str | Path | None = None,
    *,
    root: str | Path | None = None,
    model: str | None = None,
    dataset: str | None = None,
    fingerprint: str | None = None,
) -> Cache:
    """The cache in a folder, or the one that matches among those below the root. `fingerprint`: its first digits.

    Raises CacheNotFoundError if none matches, CacheAmbiguousError (listing them, and what differs) if several do, CacheCorruptError.
    """
    if path is not None:
        return load_cache(Path(path).expanduser())
    base = cache_root(root)
    found = [c for c in find_caches(base, model, dataset) if c.spec.fingerprint.startswith(fingerprint or "")]
    if len(found) == 1:
        return found[0]
    asked = (
        ", ".join(f"{k} {v!r}" for k, v in {"model": model, "dataset": dataset, "fingerprint": fingerprint}.items() if v) or "any model and data set"
    )
    if not found:
        there = sorted({f"{c.spec.model} on {c.spec.dataset.name}" for c in find_caches(base)})
        raise CacheNotFoundError(f"no cache of {asked} below {base}; there is {', '.join(there) or 'none'}. Make one with: layercache extract")
    lines = "\n".join(f"  {c.path}: {_differing(c, found)}" for c in found)
    raise CacheAmbiguousError(
        f"{len(found)} caches below {base} match {asked}; choose one by its path, or by model, data set or fingerprint:\n{lines}"
    )


def extract_command(cache: Cache) -> str:
    """The command that made a cache, as far as its spec tells."""
    s = cache.spec
    words = ["layercache extract", f"--model {s.model}", f"--dataset {s.dataset.name}"]
    if s.dataset.limit is not None:
        words.append(f"--limit {s.dataset.limit}")
    if s.tap != "norm2":
        words.append(f"--tap {s.tap}")
    if s.precision != "fp32":
        words.append(f"--precision {s.precision}")
    if s.store_dtype != "float16":
        words.append(f"--store-dtype {s.store_dtype}")
    root = cache.path.parents[2]
    if cache.path == cache_folder(root, s) and root != cache_root():
        words.append(f"--cache {root}")
    return " ".join(words) + " (with the other options it was begun with)"


def _glob(name: str | None) -> str:
    return "*" if name is None else safe_name(name)


def _differing(cache: Cache, among: Sequence[Cache]) -> str:
    flat = [_flatten(c.spec.to_json()) for c in among]
    mine = _flatten(cache.spec.to_json())
    keys = [k for k in mine if len({json.dumps(f.get(k), sort_keys=True) for f in flat}) > 1]
    return ", ".join(f"{k} {mine[k]}" for k in keys if not k.startswith("dataset.splits"))[:300] or "the data set's samples differ"


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name, inner in value.items() for k, v in _flatten(inner, f"{prefix}.{name}" if prefix else name).items()}
