"""Tokens of a cache as files of other formats.

Shapes: N samples of a split, T selected tokens of a sample, D width.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layercache.cache.annotations.frame import rows_of
from layercache.cache.annotations.table import write_table
from layercache.cache.arrays import Array, Layers, Pairs, Tokens
from layercache.cache.cache import Cache
from layercache.cache.find import open_cache
from layercache.cache.reading.split import Split
from layercache.cache.storage.paths import CachePath
from layercache.errors import CacheIncompleteError, MissingExtraError, OptionError

FORMATS = ("parquet", "h5", "npy")


@dataclass(frozen=True, kw_only=True)
class TokenExport:
    """Summary of an export."""

    path: Path
    """The file, or the folder of .npy files."""
    rows: dict[str, int]
    """Number of samples by split."""
    tokens: tuple[str, ...]
    """Names of the tokens, such as "12:cls", in the order of the arrays."""


def export_tokens(
    cache: Cache | str | CachePath,
    path: str | Path,
    *,
    format: str,
    layers: Layers = None,
    tokens: Tokens = None,
    splits: str | Sequence[str] | None = None,
) -> TokenExport:
    """Write tokens, ids and annotations in a format that other tools read.

    * parquet: one file, one row for each sample: id, split, the annotations, and a column for each
      token, a list of D floats (extra "parquet").
    * h5: one file with a group for each split: tokens (N, T, D), ids, and labels if there are any:
      names of classes, 0/1 (N, C) if multi-label, or numbers (extra "pcam").
    * npy: a folder with SPLIT.npy (N, T, D) for each split, SPLIT.ids.txt, annotations.csv, and
      tokens.json, which names the tokens.

    Values are those of the cache, in its dtype. The file appears when it is complete.

    Args:
        cache: A cache, its folder or its address.
        path: File or, for npy, folder to write.
        format: parquet, h5 or npy.
        layers: A word (last, mid-last, quarter, all), a number or numbers; by default all stored.
        tokens: Token kinds, as in "cls+ap", or names; by default all stored.
        splits: Splits to export; by default all that are complete.

    Raises:
        OptionError: The format is unknown, a layer is not stored, or the path exists.
        CacheIncompleteError: No split is complete, or a requested one is not.
        MissingExtraError: The format needs an extra.
    """
    if format not in FORMATS:
        raise OptionError(f"format: expected {', '.join(FORMATS)}, got {format!r}")
    cache = cache if isinstance(cache, Cache) else open_cache(cache)
    path = Path(path)
    if path.exists():
        raise OptionError(f"{path} exists: delete it, or choose another path")
    names = [splits] if isinstance(splits, str) else list(splits or _complete_splits(cache))
    opened = [cache.split(name) for name in names]
    pairs = cache.pairs(layers=layers, tokens=tokens)
    write = {"parquet": _write_parquet, "h5": _write_h5, "npy": _write_npy}[format]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        write(temporary, cache, opened, pairs)
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
    return TokenExport(
        path=path, rows={split.name: split.rows for split in opened}, tokens=tuple(_names(pairs))
    )


def _complete_splits(cache: Cache) -> list[str]:
    splits = [name for name in cache.splits if cache.complete(name)]
    if not splits:
        raise CacheIncompleteError(
            f"{cache.path}: expected a complete split to export, got none: finish the extraction "
            "first"
        )
    return splits


def _names(pairs: Pairs) -> list[str]:
    return [f"{layer}:{token}" for layer, token in pairs]


def _describe(cache: Cache, pairs: Pairs) -> dict[str, Any]:
    """Return what a reader of the file needs to know."""
    spec = cache.spec
    return {
        "model": spec.model,
        "dataset": spec.dataset.name,
        "fingerprint": spec.fingerprint,
        "tap": spec.tap,
        "tokens": _names(pairs),
    }


def _blocks(split: Split, pairs: Pairs) -> Iterator[tuple[int, int, Array]]:
    """Yield ranges of rows and their tokens (rows, T, D)."""
    for start, stop in split.blocks:
        yield start, stop, split.read(pairs, rows=(start, stop)).transpose(1, 0, 2)


def _write_npy(path: Path, cache: Cache, splits: Sequence[Split], pairs: Pairs) -> None:
    path.mkdir()
    for split in splits:
        shape = (split.rows, len(pairs), cache.spec.width)
        x_ntd = np.lib.format.open_memmap(
            path / f"{split.name}.npy", mode="w+", dtype=cache.spec.storage_dtype, shape=shape
        )
        for start, stop, block in _blocks(split, pairs):
            x_ntd[start:stop] = block
        x_ntd.flush()
        ids = "".join(f"{name}\n" for name in split.ids)
        (path / f"{split.name}.ids.txt").write_text(ids, encoding="utf-8")
    write_table(cache.annotations, path / "annotations.csv")
    (path / "tokens.json").write_text(json.dumps(_describe(cache, pairs), indent=2) + "\n")


def _write_h5(path: Path, cache: Cache, splits: Sequence[Split], pairs: Pairs) -> None:
    try:
        import h5py
    except ImportError:
        raise MissingExtraError("h5py", "pcam") from None
    with h5py.File(path, "w") as file:
        for name, value in _describe(cache, pairs).items():
            file.attrs[name] = value
        for split in splits:
            group = file.create_group(split.name)
            shape = (split.rows, len(pairs), cache.spec.width)
            x_ntd = group.create_dataset("tokens", shape, cache.spec.storage_dtype)
            for start, stop, block in _blocks(split, pairs):
                x_ntd[start:stop] = block
            group.create_dataset("ids", data=split.ids, dtype=h5py.string_dtype())
            column = cache.annotation_columns.get("label")
            if column is None:
                continue
            labels = rows_of(column, split.name, split.kept_rows)
            if column.kind == "class":
                names = np.array([*column.classes, ""], object)[labels]  # -1 is the last
                group.create_dataset("labels", data=names, dtype=h5py.string_dtype())
            else:
                group.create_dataset("labels", data=labels)
                group["labels"].attrs["classes"] = list(column.classes)


def _write_parquet(path: Path, cache: Cache, splits: Sequence[Split], pairs: Pairs) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet") from None
    frame = cache.annotations
    metadata = {"layercache": json.dumps(_describe(cache, pairs))}
    writer = None
    try:
        for split in splits:
            rows = frame[frame["split"] == split.name].reset_index()
            for start, stop, x_ntd in _blocks(split, pairs):
                table = pa.Table.from_pandas(rows.iloc[start:stop], preserve_index=False)
                for t, name in enumerate(_names(pairs)):
                    flat = pa.array(np.ascontiguousarray(x_ntd[:, t]).ravel())
                    column = pa.FixedSizeListArray.from_arrays(flat, cache.spec.width)
                    table = table.append_column(name, column)
                table = table.replace_schema_metadata(metadata)
                if writer is None:
                    writer = pq.ParquetWriter(path, table.schema)
                writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
