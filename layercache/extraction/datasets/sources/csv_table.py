"""`csv:FILE`: a table with the columns path, label and optionally split.

    path,label,split            path relative to the table's folder, with forward slashes
    cats/1.jpg,cat,train        label any text; numbers are sorted as numbers
    both/2.jpg,cat;dog,train    several labels are joined by ';'

Other columns are named after a "?": "csv:FILE?path=file&label=category&split=part"; "label=" says
that there are no labels. The dataset is multi-label if a row has several labels or the column is
called `labels`. Otherwise an empty label or -1 is none. "Training" and the like are read as
"train"; without a labelled test split, `val` becomes "test"; without a split column, 20 % are held
out as "test", as for `folder:`. Classes are those of all splits together, sorted. Fields may be
separated by semicolons or tabs; other columns are not read.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl

import numpy as np

from layercache.cache.annotations.class_names import is_no_label, sort_classes, unify_spellings
from layercache.cache.annotations.csv_file import (
    UNCLOSED_QUOTE,
    describe_csv_error,
    describe_encoding,
)
from layercache.cache.format.origin import plain_name, split_query
from layercache.errors import DataError, DataNotFoundError, OptionError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.datasets.in_memory import InMemoryDataset
from layercache.extraction.datasets.splits import (
    choose_splits,
    describe_splits,
    order_splits,
)

LABEL_COLUMNS = ("label", "labels")
"""Names of the label column; the second makes the dataset multi-label."""
DELIMITERS = (",", ";", "\t")
"""Characters that may separate the fields."""


class _Row(NamedTuple):
    path: str
    labels: list[str]
    split: str
    """Empty if the table has no split column."""


@dataclass(frozen=True)
class _CsvColumns:
    """Names of the columns, in lower case."""

    path: str
    label: str
    """"" for none."""
    split: str
    """"" for none."""


def open_csv(location: str | os.PathLike[str]) -> InMemoryDataset:
    """Open the dataset "FILE?path=COLUMN&label=COLUMN&split=COLUMN" that a table lists.

    Raises:
        OptionError: An option is unknown.
        DataNotFoundError: There is no such file.
        DataError: The file is not such a table; names the line.
    """
    name, requested = _parse_location(os.fspath(location))
    file = Path(name).expanduser().absolute()
    rows, multi_label = _read(file, requested)
    spelling = unify_spellings({label for row in rows for label in row.labels})
    classes = sort_classes(spelling.values())
    class_number = {name: i for i, name in enumerate(classes)}
    samples: dict[str, Samples] = {}
    for split in dict.fromkeys(row.split for row in rows):
        split_rows = [row for row in rows if row.split == split]
        numbers = [[class_number[spelling[label]] for label in row.labels] for row in split_rows]
        if multi_label:
            labels = np.zeros((len(split_rows), len(classes)), np.uint8)
            for i, row_numbers in enumerate(numbers):
                labels[i, row_numbers] = 1
        else:
            labels = np.asarray([n[0] if n else -1 for n in numbers], np.int64)
        samples[split] = FileSamples(str(file.parent), [row.path for row in split_rows], labels)
    has_splits = list(samples) != [""]
    if not has_splits:
        # a repeated image might be trained on and tested
        _check_unique(file, samples[""].ids)
    ignored: Counter[str] = Counter()
    chosen = choose_splits(samples, divide=not has_splits)
    return InMemoryDataset(
        name=plain_name(file.stem),
        classes=classes,
        samples=order_splits(chosen),
        multi_label=multi_label,
        ignored=ignored,
        notes=describe_splits(samples, chosen),
    )


def _parse_location(location: str) -> tuple[str, dict[str, str]]:
    """Return the file and the requested columns; a file's name may have a "?" itself."""
    name, query = split_query("csv", location)
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(options.keys() - {"path", "label", "split"})
    if unknown:
        raise OptionError(
            f"csv:{location}: unknown option {unknown[0]!r}, expected path, label or split"
        )
    return name, {option: column.strip().lower() for option, column in options.items()}


def _read(file: Path, requested: Mapping[str, str]) -> tuple[list[_Row], bool]:
    """Return the rows, and whether the dataset is multi-label."""
    if file.exists() and not file.is_file() and not file.is_dir():
        raise DataError(
            f"csv:{file}: cannot be read: expected a regular file, got a pipe or device"
        )
    try:
        with open(file, newline="", encoding="utf-8-sig") as f:
            delimiter = _detect_delimiter(f.readline(csv.field_size_limit()), requested)
            f.seek(0)
            reader = csv.DictReader(f, delimiter=delimiter, skipinitialspace=True, strict=True)
            header, columns = _read_header(file, reader, requested)
            rows = list(_parse(file, reader, header, columns))
    except FileNotFoundError as error:
        raise DataNotFoundError(f"csv:{file}: there is no such file") from error
    except OSError as error:
        raise DataError(f"csv:{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(describe_encoding(file)) from error
    if not rows:
        raise DataError(f"{file}: expected at least one sample, got none")
    multi_label = columns.label == "labels" or any(len(row.labels) > 1 for row in rows)
    if multi_label and any(is_no_label(label) for row in rows for label in row.labels):
        raise DataError(
            f"{file}: -1 is no class: leave the label empty where an image has none of the classes"
        )
    if multi_label:
        return rows, True
    return [
        row._replace(labels=[label for label in row.labels if not is_no_label(label)])
        for row in rows
    ], False


def _detect_delimiter(header: str, requested: Mapping[str, str]) -> str:
    """Return the delimiter with which the header has the columns, else the most frequent one."""
    for delimiter in DELIMITERS:
        columns = _lower(next(csv.reader([header], delimiter=delimiter), []))
        labels = {requested["label"]} if "label" in requested else set(LABEL_COLUMNS)
        if requested.get("path", "path") in columns and labels & {*columns, ""}:
            return delimiter
    return max(DELIMITERS, key=header.count)


def _lower(header: Iterable[str]) -> set[str]:
    return {name.strip().lower() for name in header}


def _read_header(
    file: Path, reader: csv.DictReader[str], requested: Mapping[str, str]
) -> tuple[list[str], _CsvColumns]:
    """Return the header and which columns hold path, label and split."""
    try:
        header = [name.strip().lower() for name in reader.fieldnames or []]
    except csv.Error as error:
        raise DataError(f"{file}, line 1: {describe_csv_error(error)}") from error
    reader.fieldnames = header
    columns = _CsvColumns(
        path=requested.get("path", "path"),
        label=requested.get("label", next((c for c in LABEL_COLUMNS if c in header), "label")),
        split=requested.get("split", "split" if "split" in header else ""),
    )
    used = [name for name in vars(columns).values() if name]
    if missing := [name for name in used if name not in header]:
        what = "the columns path, label and optionally split"
        if requested:
            what = f"the column {missing[0]}"
        raise DataError(
            f"{file}: expected a first line with {what}, got {', '.join(header) or 'nothing'}; "
            f"other names are given as in csv:{file.name}?path=COLUMN&label=COLUMN&split=COLUMN"
        )
    for name in used:
        if header.count(name) > 1 or used.count(name) > 1:
            raise DataError(
                f"{file}, line 1: expected the column {name} once, got it "
                f"{max(header.count(name), used.count(name))} times: rename the others"
            )
    return header, columns


def _parse(
    file: Path, reader: csv.DictReader[str], header: list[str], columns: _CsvColumns
) -> Iterator[_Row]:
    required = [name for name in vars(columns).values() if name]
    while True:
        start = reader.line_num + 1
        try:
            row: dict[str | None, str | None] | None = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{file}, line {start}: {describe_csv_error(error)}") from error
        if row is None:
            return
        where = f"{file}, line {reader.line_num}"
        texts = [row[column] for column in required]
        if None in row or None in texts:
            raise DataError(f"{where}: expected {len(header)} fields ({', '.join(header)})")
        values = {column: (row[column] or "").strip() for column in required}
        for column, value in values.items():
            if "\n" in value:
                raise DataError(f"{file}, line {start}: the {column} {UNCLOSED_QUOTE}")
            if "\0" in value:
                raise DataError(
                    f"{where}: expected text, got a NUL byte in the {column}: remove it"
                )
        for column in (columns.path, columns.split):
            if values.get(column) == "":
                raise DataError(f"{where}: the {column} is empty")
        labels = [label.strip() for label in values.get(columns.label, "").split(";")]
        yield _Row(
            path=values[columns.path].replace("\\", "/"),
            labels=[label for label in labels if label],
            split=values.get(columns.split, ""),
        )


def _check_unique(file: Path, paths: list[str]) -> None:
    repeated = next((path for path, n in Counter(paths).items() if n > 1), None)
    if repeated is not None:
        raise DataError(
            f"{file}: sample {repeated!r} is listed more than once: "
            "list each once (several labels of one image are joined by ';')"
        )
