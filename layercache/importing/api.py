"""The public function `import_tokens`.

Shapes: N samples, L layers, T tokens of a layer, D width, C classes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np

from layercache.cache.annotations.label import record_label
from layercache.cache.cache import Cache
from layercache.cache.find import open_cache
from layercache.cache.format.cache_spec import (
    IMPORTED,
    CacheSpec,
    DatasetIdentity,
    SplitIdentity,
    StorageDtype,
    digest_ids,
)
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import CachePath, cache_root
from layercache.cache.writing.split_writer import SplitWriter
from layercache.errors import NonFiniteError, OptionError
from layercache.importing.labels import make_label_column
from layercache.importing.splits import Sources, SplitArrays, read_splits

logger = logging.getLogger(__name__)

DIGEST_ROWS = 1024
"""Rows that are converted at a time."""
DEFAULT_TOKENS = {1: ("cls",), 2: ("cls", "ap")}
"""Number of tokens of a layer -> their names, if none are given."""


def import_tokens(
    tokens: Sources,
    *,
    name: str,
    model: str = IMPORTED,
    labels: Sources | None = None,
    ids: Sources | None = None,
    classes: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    token_names: Sequence[str] | None = None,
    storage_dtype: StorageDtype | None = None,
    root: str | CachePath | None = None,
) -> Cache:
    """Make a cache from tokens that another tool has computed.

        layercache.import_tokens({"train": x, "test": x_test}, labels={"train": y, "test": y_test},
                                 name="flowers", model="my_encoder")

    The cache is marked as imported: its identity holds the given names and digests of the arrays,
    and no weights or preprocessing. `probe`, `report` and the commands on caches work as
    usual; what needs the encoder (`predict`, `export`) does not. The same arrays are imported once.

    Args:
        tokens: Floats (N, D), (N, T, D) or (N, L, T, D): an array, or a file (.npy, .npz, .h5,
            .parquet, .pt) or FILE#NAME for one array in it; or, by split, a dict of these. A list
            of files of one split gives its layers. A file may hold several splits, as
            "SPLIT/tokens" or "SPLIT_tokens", with labels and ids next to them.
        name: Name of the dataset.
        model: Name of the encoder; caches of the same name count as the same weights.
        labels: Names of classes, class numbers, 0/1 (N, C), or floats; as `tokens`.
        ids: Names of the samples, distinct within a split; by default their numbers.
        classes: Names of the classes in order; by default those that occur, or the numbers.
        layers: Numbers of the L layers, ascending; by default 1 to L, or what a file says that
            `export_tokens` wrote.
        token_names: Names of the T tokens of a layer (cls, ap, reg, std, max, attn, patch/I,
            grid:K/I); by default "cls" for one, "cls" and "ap" for two, else patch/0 and so on.
        storage_dtype: float16 or float32; by default float16 if all arrays are, else float32.
        root: Root of the caches; default $LAYERCACHE_HOME, else the user's cache folder.

    Raises:
        DataError: Shapes, lengths or labels do not fit, or a file cannot be read.
        NonFiniteError: A token is NaN or infinite, or too large for float16.
        OptionError: An option is out of range, or an array is not found.
    """
    splits = read_splits(tokens, labels=labels, ids=ids)
    spec = _make_spec(
        splits,
        name=name,
        model=model,
        layers=layers,
        token_names=token_names,
        storage_dtype=storage_dtype,
    )
    column = make_label_column(
        {split: arrays.labels for split, arrays in splits.items()},
        classes=classes,
        splits=spec.dataset.splits,
    )
    base = cache_root(root)
    for split, arrays in splits.items():
        with SplitWriter(base, spec, split, ids=_ids(arrays)) as writer:
            record_label(open_store(writer.path), column)
            if writer.complete:
                logger.info("%s: split %s is imported already", writer.path, split)
                continue
            for block in writer.pending:
                start = block * writer.block_rows
                stop = min(start + writer.block_rows, arrays.rows)
                writer.write(block, _convert(arrays, start, stop, dtype=spec.storage_dtype))
            writer.finish()
    return open_cache(writer.path)


def _make_spec(
    splits: Mapping[str, SplitArrays],
    *,
    name: str,
    model: str,
    layers: Sequence[int] | None,
    token_names: Sequence[str] | None,
    storage_dtype: StorageDtype | None,
) -> CacheSpec:
    first = next(iter(splits.values()))
    n_layers, n_tokens, width = first.shape
    pairs = first.pairs if len(first.parts) == 1 else None
    if pairs is not None:  # the file names its tokens
        layers = layers or list(dict.fromkeys(layer for layer, _ in pairs))
        token_names = token_names or list(dict.fromkeys(token for _, token in pairs))
    numbers = tuple(layers or range(1, n_layers + 1))
    names = tuple(token_names or DEFAULT_TOKENS.get(n_tokens) or _patches(n_tokens))
    for option, values, count in (("layers", numbers, n_layers), ("token_names", names, n_tokens)):
        if len(values) != count:
            raise OptionError(
                f"{option}: the arrays have {count}, got {len(values)}: "
                f"{', '.join(map(str, values))}"
            )
    if storage_dtype is None:
        is_half = all(arrays.dtype == np.float16 for arrays in splits.values())
        storage_dtype = "float16" if is_half else "float32"
    if storage_dtype not in ("float16", "float32"):
        raise OptionError(f"storage_dtype: expected float16 or float32, got {storage_dtype!r}")
    spec = CacheSpec(
        model=model,
        architecture=IMPORTED,
        weights=hashlib.sha256(f"{IMPORTED}:{model}".encode()).hexdigest(),
        depth=max(numbers),
        width=width,
        tap=IMPORTED,
        layers=numbers,
        tokens=names,
        projected=False,
        preprocessing={},
        precision="fp32",
        storage_dtype=storage_dtype,
        dataset=DatasetIdentity(
            name=name,
            limit=None,
            limit_seed=0,
            splits={
                split: SplitIdentity(
                    rows=arrays.rows,
                    ids=digest_ids(_ids(arrays)),
                    content=f"bytes:{_digest(arrays, split=split, dtype=storage_dtype)}",
                )
                for split, arrays in splits.items()
            },
        ),
    )
    try:
        return CacheSpec.from_json(spec.to_json())
    except ValueError as error:
        raise OptionError(str(error)) from None


def _patches(n_tokens: int) -> tuple[str, ...]:
    return tuple(f"patch/{i}" for i in range(n_tokens))


def _ids(arrays: SplitArrays) -> list[str]:
    return arrays.ids or [str(row) for row in range(arrays.rows)]


def _digest(arrays: SplitArrays, *, split: str, dtype: StorageDtype) -> str:
    """Return the SHA-256 hex over shape, dtype and values of a split as it will be stored.

    Raises:
        NonFiniteError: A value is NaN or infinite.
    """
    digest = hashlib.sha256(f"{dtype} {arrays.rows} {arrays.shape}".encode())
    for start in range(0, arrays.rows, DIGEST_ROWS):
        stop = min(start + DIGEST_ROWS, arrays.rows)
        x_ltnd = _convert(arrays, start, stop, dtype=dtype)
        finite_n = np.isfinite(x_ltnd).all(axis=(0, 1, 3))
        if not finite_n.all():
            row = int(np.flatnonzero(~finite_n)[0])
            _refuse(arrays, start + row, split=split, dtype=dtype)
        digest.update(x_ltnd.tobytes())
    return digest.hexdigest()


def _refuse(arrays: SplitArrays, row: int, *, split: str, dtype: StorageDtype) -> NoReturn:
    x_ltnd = arrays.block(row, row + 1)
    overflows = bool(np.isfinite(x_ltnd).all())
    problem = f"larger than {dtype} holds" if overflows else "NaN or infinite"
    remedy = "leave the sample out, or correct it"
    if overflows and dtype == "float16":
        remedy = "import with storage_dtype float32 (--storage-dtype float32)"
    raise NonFiniteError(
        f"sample {_ids(arrays)[row]!r} of split {split!r}: a token is {problem}: {remedy}"
    )


def _convert(arrays: SplitArrays, start: int, stop: int, *, dtype: StorageDtype) -> np.ndarray:
    """Return rows as stored, (L, T, n, D), C-contiguous; what overflows becomes infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(arrays.block(start, stop), dtype)
