"""Arrays of files that other tools wrote: .npy, .npz, .h5, .parquet and .pt.

Nothing in a file is executed: numpy reads without pickle, torch with weights_only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from layercache.errors import DataError, DataNotFoundError, MissingExtraError, OptionError

Array = np.ndarray[Any, np.dtype[Any]]

PAIRS = "token_names"
"""Name of the array with the names of the tokens, such as "12:cls"."""
FORMATS = (".npy", ".npz", ".h5", ".hdf5", ".parquet", ".pt", ".pth")


def read_arrays(source: str | Path) -> dict[str, Array]:
    """Return the arrays of a file by name; the only one of an .npy file, or of a .pt, is "".

    Args:
        source: A file, or FILE#NAME for one array of it, or those below it ("train" for
            "train/tokens").

    Raises:
        DataNotFoundError: There is no such file.
        OptionError: Its ending is unknown, or it has no such array.
        DataError: It cannot be read.
        MissingExtraError: The format needs an extra.
    """
    text = str(source)
    file, _, name = (text, "", "") if Path(text).exists() else text.partition("#")
    path = Path(file)
    if not path.is_file():
        raise DataNotFoundError(f"{path}: expected a file of arrays, got no such file")
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise OptionError(f"{path}: expected a file that ends with {', '.join(FORMATS)}")
    read = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".h5": _read_h5,
        ".hdf5": _read_h5,
        ".parquet": _read_parquet,
        ".pt": _read_pt,
        ".pth": _read_pt,
    }[ending]
    try:
        arrays = read(path)
    except (MissingExtraError, DataError):
        raise
    # each reader has exceptions of its own for a damaged file
    except Exception as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path}: cannot be read as {ending} ({first_line}); it must hold plain arrays, "
            "no pickled objects"
        ) from error
    return _select(arrays, name, path=path)


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a text file, without blank ones at its end.

    Raises:
        DataNotFoundError: There is no such file.
    """
    try:
        return Path(path).read_text(encoding="utf-8").rstrip().split("\n")
    except FileNotFoundError:
        raise DataNotFoundError(f"{path}: expected a text file, got no such file") from None


def _select(arrays: dict[str, Array], name: str, *, path: Path) -> dict[str, Array]:
    if not name:
        return arrays
    if name in arrays:
        return {"": arrays[name]}
    below = {
        key.removeprefix(f"{name}/"): array
        for key, array in arrays.items()
        if key.startswith(f"{name}/")
    }
    if not below:
        raise OptionError(
            f"{path}: expected an array {name!r}, got {', '.join(sorted(arrays)) or 'none'}"
        )
    return below


def _read_npy(path: Path) -> dict[str, Array]:
    return {"": np.load(path, mmap_mode="r", allow_pickle=False)}


def _read_npz(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_h5(path: Path) -> dict[str, Array]:
    try:
        import h5py
    except ImportError:
        raise MissingExtraError("h5py", "pcam") from None
    arrays: dict[str, Array] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            is_text = h5py.check_string_dtype(item.dtype) is not None
            arrays[name] = np.asarray(item.asstr()[()], dtype=str) if is_text else item[()]

    with h5py.File(path, "r") as file:
        file.visititems(visit)
        names = file.attrs.get("tokens")  # as `layercache export-tokens` writes it
    if names is not None and np.asarray(names).ndim == 1:
        splits = dict.fromkeys(name.rpartition("/")[0] for name in arrays)
        arrays |= {f"{split}/{PAIRS}".lstrip("/"): np.asarray(names, dtype=str) for split in splits}
    return arrays


def _read_parquet(path: Path) -> dict[str, Array]:
    """Return the columns; lists of equal length as (N, D), and by split if there is such a column.

    Columns named "LAYER:TOKEN", as `layercache export-tokens` writes them, become one array
    "tokens" (N, T, D).
    """
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet") from None
    table = pq.read_table(path)
    columns = {name: _column(table[name], path, name) for name in table.column_names}
    tokens = [name for name in columns if ":" in name and columns[name].ndim == 2]
    if tokens:
        columns["tokens"] = np.stack([columns.pop(name) for name in tokens], axis=1)
    if "split" not in columns:
        return columns | ({PAIRS: np.array(tokens)} if tokens else {})
    splits = columns.pop("split")
    by_split: dict[str, Array] = {}
    for split in dict.fromkeys(splits.tolist()):
        by_split |= {f"{split}/{name}": values[splits == split] for name, values in columns.items()}
        if tokens:
            by_split[f"{split}/{PAIRS}"] = np.array(tokens)
    return by_split


def _column(column: Any, path: Path, name: str) -> Array:
    import pyarrow as pa

    combined = column.combine_chunks()
    if pa.types.is_dictionary(combined.type):
        combined = combined.dictionary_decode()
    if not (
        pa.types.is_list(combined.type)
        or pa.types.is_large_list(combined.type)
        or pa.types.is_fixed_size_list(combined.type)
    ):
        values: Array = combined.to_numpy(zero_copy_only=False)
        if values.dtype == object:
            return np.array(["" if value is None else str(value) for value in values])
        return values
    if pa.types.is_string(combined.type.value_type):
        lists = np.empty(len(combined), object)  # names of several classes
        lists[:] = combined.to_pylist()
        return lists
    lengths = combined.value_lengths().to_numpy(zero_copy_only=False)
    if combined.null_count or len(np.unique(lengths)) > 1:
        raise DataError(f"{path}: column {name!r}: expected lists of one length, without gaps")
    flat: Array = combined.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(combined), -1)


def _read_pt(path: Path) -> dict[str, Array]:
    import torch

    content = torch.load(path, weights_only=True, map_location="cpu")
    return {name: _as_array(tensor) for name, tensor in _walk("", content) if tensor is not None}


def _walk(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors and lists of numbers or text in nested dicts by "a/b" names."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _walk(f"{prefix}/{key}" if prefix else str(key), inner)
    else:
        yield prefix, value


def _as_array(value: Any) -> Array:
    import torch

    if isinstance(value, torch.Tensor):
        value = value.float() if value.dtype == torch.bfloat16 else value
        return np.asarray(value.detach().cpu())
    array = np.asarray(value)
    if array.dtype == object:
        raise DataError("expected tensors, or lists of numbers or text")
    return array
