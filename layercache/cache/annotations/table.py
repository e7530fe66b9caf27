"""Tables of annotations: files and DataFrames as columns of values by sample id.

Ids are text, as they stand in the file. Columns of a CSV file, or of text, get their kind from all
of their values: integers, numbers, true and false (as 1 and 0), else the names of classes. Text
such as "007" is a name, so that no two texts become one number.

Shapes: N rows of the table.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layercache.cache.annotations.class_names import sort_classes, unify_spellings
from layercache.cache.annotations.column import (
    MISSING_CLASS,
    MISSING_INTEGER,
    Array,
    Kind,
)
from layercache.cache.annotations.csv_file import read_columns
from layercache.cache.annotations.frame import SPLIT
from layercache.errors import (
    DataError,
    DataNotFoundError,
    MissingExtraError,
    OptionError,
    StorageError,
)

if TYPE_CHECKING:
    import pandas as pd

ID_COLUMNS = ("id", "path")
"""Names under which the column of the ids is looked for."""
MAX_NAME_CHARS = 200
MAX_LISTED = 5
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_MISSING_WORDS = frozenset({"nan", "na", "n/a", "null", "none"})
"""Words, in lower case, that are a missing value among numbers."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class TableColumn:
    """One column of a table."""

    kind: Kind
    classes: tuple[str, ...]
    """Class names in order; empty for numbers."""
    values: Array
    """(N,), as in an annotation column."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotationTable:
    """A table whose rows belong to samples."""

    name: str
    """Path of the file, or "the table", for messages."""
    ids: pd.Index[Any]
    """N ids, text."""
    splits: Array | None
    """N names of splits, text; None if the table has no column "split"."""
    columns: Mapping[str, TableColumn]


def read_table(
    source: str | os.PathLike[str] | pd.DataFrame,
    *,
    id_column: str | None = None,
    columns: Sequence[str] = (),
) -> AnnotationTable:
    """Read a table of annotations.

    Args:
        source: A CSV file (fields separated by commas, semicolons or tabs), a .parquet file, or a
            DataFrame, whose named index counts as a column.
        id_column: Column of the ids; default: "id" or "path".
        columns: Columns to take; default: all but the ids and "split".

    Raises:
        DataNotFoundError: There is no such file.
        DataError: The file is no such table, or an id or value cannot be used.
        OptionError: A requested column does not exist.
        MissingExtraError: A parquet file needs the extra parquet.
    """
    import pandas as pd

    frame, name = _load(source)
    headings = [str(column).strip() for column in frame.columns]
    frame.columns = pd.Index(headings)
    _check_names(headings, name)
    id_column = _find_id_column(headings, id_column, name)
    ids = _as_text(frame[id_column], where=f"{name}: column {id_column!r}")
    if empty := int((ids == "").sum()):
        row = int(np.flatnonzero(ids == "")[0])
        raise DataError(
            f"{name}: expected an id in every row, got none in row {row + 1} ({empty} such rows)"
        )
    splits = None
    if SPLIT in headings and id_column != SPLIT:
        splits = _as_text(frame[SPLIT], where=f"{name}: column {SPLIT!r}")
    names = [column for column in headings if column not in (id_column, SPLIT)]
    if unknown := [column for column in columns if column not in names]:
        raise OptionError(
            f"{name}: expected a column {unknown[0]!r}, got {', '.join(names) or 'no other column'}"
        )
    chosen = list(columns) or names
    if not chosen:
        raise DataError(f"{name}: expected a column next to the ids ({id_column}), got none")
    return AnnotationTable(
        name=name,
        ids=pd.Index(ids),
        splits=splits,
        columns={column: _column(frame[column], f"{name}: {column}") for column in chosen},
    )


def write_table(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table of annotations as .csv or .parquet, as `read_table` reads it.

    Raises:
        OptionError: The file has another suffix.
        StorageError: It cannot be written.
        MissingExtraError: A parquet file needs the extra parquet.
    """
    file = Path(path).expanduser()
    suffix = file.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise OptionError(f"{file}: expected a name that ends in .csv or .parquet")
    if suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise MissingExtraError("pyarrow", "parquet") from None
    try:
        if suffix == ".csv":
            frame.to_csv(file)
        else:
            frame.to_parquet(file)
    except OSError as e:
        raise StorageError(f"{file}: cannot be written: {e.strerror or e}") from None


def _load(source: str | os.PathLike[str] | pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return a table and its name for messages; text of a CSV file stays text."""
    if not isinstance(source, str | os.PathLike):
        frame = source.copy(deep=False)
        return (frame.reset_index() if any(frame.index.names) else frame), "the table"
    file = Path(source).expanduser()
    if not file.is_file():
        problem = "expected a file, got a folder" if file.is_dir() else "there is no such file"
        raise DataNotFoundError(f"{file}: {problem}")
    read = _read_parquet if file.suffix.lower() in (".parquet", ".pq") else _read_csv
    return read(file), str(file)


def _read_csv(file: Path) -> pd.DataFrame:
    import pandas as pd

    names, texts = read_columns(file)
    columns = [pd.Series(np.array(values, object)) for values in texts]
    frame = pd.concat(columns, axis=1) if columns else pd.DataFrame()
    frame.columns = pd.Index(names)
    return frame


def _read_parquet(file: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet") from None
    try:
        frame = pd.read_parquet(file)
    except (OSError, ValueError) as e:
        raise DataError(f"{file}: is not a parquet file: {e}") from None
    return frame.reset_index() if any(frame.index.names) else frame


def _check_names(names: Iterable[str], table: str) -> None:
    seen: set[str] = set()
    for name in names:
        if not name or not name.isprintable() or "," in name or len(name) > MAX_NAME_CHARS:
            raise DataError(
                f"{table}: column {name[:MAX_NAME_CHARS]!r}: expected a name of at most "
                f"{MAX_NAME_CHARS} printable characters without a comma: rename the column"
            )
        if name in seen:
            raise DataError(f"{table}: expected the column {name!r} once: rename the others")
        seen.add(name)


def _find_id_column(names: Sequence[str], requested: str | None, table: str) -> str:
    candidates = ID_COLUMNS if requested is None else (requested,)
    for name in candidates:
        if name in names:
            return name
    raise OptionError(
        f"{table}: expected the ids in a column {' or '.join(candidates)}, got the columns "
        f"{', '.join(names)}: name the column of the ids (--id)"
    )


def _as_text(values: pd.Series[Any], *, where: str) -> Array:
    """Return a column as text, (N,), "" for a missing value."""
    import pandas as pd

    if pd.api.types.is_float_dtype(values.dtype):
        numbers = values.to_numpy(float, na_value=np.nan)
        if (~np.isnan(numbers) & (numbers != np.round(numbers))).any():
            raise DataError(f"{where}: expected text or integers, got other numbers")
        values = values.astype("Int64")
    missing = values.isna().to_numpy()
    texts = np.array([str(value) for value in values.astype(object)], object)
    texts[missing] = ""
    return np.array([text.strip() for text in texts], object)


def _column(values: pd.Series[Any], where: str) -> TableColumn:
    """Return a column with the kind that all of its values have."""
    import pandas as pd

    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _categorical(values, where)
    if pd.api.types.is_bool_dtype(dtype):
        return _integers(values.astype("boolean").astype("Int64"))
    if pd.api.types.is_integer_dtype(dtype):
        return _integers(_checked_int64(values, where))
    if pd.api.types.is_float_dtype(dtype):
        return _floats(values.to_numpy(float, na_value=np.nan), where)
    codes, uniques = pd.factorize(values, use_na_sentinel=True)
    return _from_texts(codes, _texts(uniques, where), where)


def _texts(values: Iterable[Hashable], where: str) -> list[str]:
    texts = []
    for value in values:
        if not isinstance(value, str | bool | int | float | np.generic):
            raise DataError(
                f"{where}: expected text or numbers, got {type(value).__name__} "
                f"({str(value)[:60]!r}): convert the column"
            )
        texts.append(str(value).strip())
    return texts


def _checked_int64(values: pd.Series[Any], where: str) -> pd.Series[Any]:
    try:
        return values.astype("Int64")
    except (OverflowError, TypeError, ValueError):
        raise DataError(f"{where}: expected integers below 2**63, got larger ones") from None


def _categorical(values: pd.Series[Any], where: str) -> TableColumn:
    """Return the classes of a Categorical in its order."""
    names = _texts(values.cat.categories, where)
    if len(set(names)) < len(names) or "" in names:
        raise DataError(f"{where}: expected distinct names of categories without an empty one")
    return TableColumn(
        kind="class", classes=tuple(names), values=values.cat.codes.to_numpy(np.int32)
    )


def _integers(values: pd.Series[Any]) -> TableColumn:
    numbers = values.to_numpy(np.int64, na_value=MISSING_INTEGER)
    return TableColumn(kind="integer", classes=(), values=numbers)


def _floats(numbers: Array, where: str) -> TableColumn:
    """Return floats, or integers where every number is whole: pandas has no other with gaps."""
    if np.isinf(numbers).any():
        raise DataError(f"{where}: expected finite numbers, got an infinite one: leave it empty")
    known = numbers[~np.isnan(numbers)]
    if len(known) and (known == np.round(known)).all() and (np.abs(known) < 2**53).all():
        filled = np.where(np.isnan(numbers), 0, numbers).astype(np.int64)
        filled[np.isnan(numbers)] = MISSING_INTEGER
        return TableColumn(kind="integer", classes=(), values=filled)
    return TableColumn(kind="float", classes=(), values=numbers)


def _from_texts(codes: Array, texts: Sequence[str], where: str) -> TableColumn:
    """Return a column of texts as integers, floats or classes, whatever all of them are.

    Args:
        codes: Position in `texts` of every row's text, int (N,); -1 where it is missing.
        texts: Texts without spaces around them; an empty one is a missing value.
        where: Table and column, for messages.
    """
    words = [text for text in texts if text]
    numeric = [text for text in words if text.lower() not in _MISSING_WORDS]
    if numeric and all(text.lower() in ("true", "false") for text in numeric):
        return _lookup_integers(codes, texts, {"true": 1, "false": 0})
    if numeric and all(map(_INTEGER.fullmatch, numeric)):
        return _lookup_integers(codes, texts, {text: int(text) for text in numeric})
    if numeric and all(map(_NUMBER.fullmatch, numeric)):
        is_number = set(numeric)
        table = np.array([float(t) if t in is_number else np.nan for t in texts] + [np.nan])
        return _floats(table[codes], where)
    if missing := [text for text in words if text.lower() in _MISSING_WORDS]:
        logger.warning(
            "%s: taken for names of classes: %s; leave the field empty where a value is missing",
            where,
            ", ".join(missing[:MAX_LISTED]),
        )
    spelling = unify_spellings(words)
    classes = sort_classes(spelling.values())
    number = {name: c for c, name in enumerate(classes)}
    lookup = [number[spelling[text]] if text else MISSING_CLASS for text in texts]
    return TableColumn(
        kind="class",
        classes=classes,
        values=np.array([*lookup, MISSING_CLASS], np.int32)[codes],
    )


def _lookup_integers(codes: Array, texts: Sequence[str], numbers: Mapping[str, int]) -> TableColumn:
    lookup = [numbers.get(text, numbers.get(text.lower(), MISSING_INTEGER)) for text in texts]
    values = np.array([*lookup, MISSING_INTEGER], np.int64)[codes]
    return TableColumn(kind="integer", classes=(), values=values)
