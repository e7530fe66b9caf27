"""`csv:FILE`: a table with the columns path, label and optionally split.

    path,label,split            path relative to the table's folder, with forward slashes
    cats/1.jpg,cat,train        label any text; numbers are sorted as numbers
    both/2.jpg,cat;dog,train    several labels are joined by ';'

The dataset is multi-label if a row has several labels or the column is called `labels`. Without a
split column, 20 % are held out as "test", as for `folder:`. Classes are those of all splits
together, sorted.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from layercache.errors import DataError, DataNotFoundError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.datasets.in_memory import InMemoryDataset, safe_name
from layercache.extraction.datasets.splits import order_splits
from layercache.extraction.datasets.subsampling import hold_out_test


class _Row(NamedTuple):
    path: str
    labels: list[str]
    split: str
    """Empty if the table has no split column."""


def open_csv(path: str | os.PathLike[str]) -> InMemoryDataset:
    """Open the dataset that a table lists.

    Raises:
        DataNotFoundError: There is no such file.
        DataError: The file is not such a table; names the line.
    """
    file = Path(path).expanduser().absolute()
    rows, multi_label = _read(file)
    classes = _sort_classes({label for row in rows for label in row.labels})
    class_number = {name: i for i, name in enumerate(classes)}
    samples: dict[str, Samples] = {}
    for split in dict.fromkeys(row.split for row in rows):
        split_rows = [row for row in rows if row.split == split]
        indicators = np.zeros((len(split_rows), len(classes)), np.uint8)
        for i, row in enumerate(split_rows):
            indicators[i, [class_number[label] for label in row.labels]] = 1
        samples[split] = FileSamples(
            str(file.parent),
            [row.path for row in split_rows],
            indicators if multi_label else indicators.argmax(1).astype(np.int64),
        )
    if list(samples) == [""]:
        # a repeated image might be trained on and tested
        _check_unique(file, samples[""].ids)
        samples = hold_out_test(samples[""])
    return InMemoryDataset(
        name=safe_name(file.stem),
        classes=classes,
        samples=order_splits(samples),
        multi_label=multi_label,
    )


def _read(file: Path) -> tuple[list[_Row], bool]:
    """Return the rows, and whether the dataset is multi-label."""
    try:
        with open(file, newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f, skipinitialspace=True, restkey="", restval=None)
            columns = [name.strip().lower() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            label_column = next((c for c in ("label", "labels") if c in columns), None)
            if "path" not in columns or label_column is None:
                raise DataError(
                    f"{file}: expected a first line with the columns path, label and optionally "
                    f"split, got {', '.join(columns) or 'nothing'}"
                )
            rows = list(_parse(file, reader, columns, label_column))
    except FileNotFoundError as error:
        raise DataNotFoundError(f"csv:{file}: there is no such file") from error
    except OSError as error:
        raise DataError(f"csv:{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: expected text in UTF-8: {error}") from error
    if not rows:
        raise DataError(f"{file}: expected at least one sample, got none")
    multi_label = label_column == "labels" or any(len(row.labels) > 1 for row in rows)
    unlabelled = next((row.path for row in rows if not row.labels), None)
    if unlabelled is not None and not multi_label:
        raise DataError(f"{file}: sample {unlabelled!r} has no label")
    return rows, multi_label


def _parse(
    file: Path, reader: csv.DictReader[str], columns: list[str], label_column: str
) -> Iterator[_Row]:
    required = ["path", label_column, *(["split"] if "split" in columns else [])]
    for row in reader:
        where = f"{file}, line {reader.line_num}"
        if "" in row or any(row[column] is None for column in required):
            raise DataError(f"{where}: expected {len(columns)} fields ({', '.join(columns)})")
        values = {column: row[column].strip() for column in required}
        for column in ("path", "split"):
            if values.get(column) == "":
                raise DataError(f"{where}: the {column} is empty")
        labels = [label.strip() for label in values[label_column].split(";")]
        yield _Row(
            path=values["path"].replace("\\", "/"),
            labels=[label for label in labels if label],
            split=values.get("split", ""),
        )


def _check_unique(file: Path, paths: list[str]) -> None:
    repeated = next((path for path, n in Counter(paths).items() if n > 1), None)
    if repeated is not None:
        raise DataError(
            f"{file}: sample {repeated!r} is listed more than once: "
            "list each once (several labels of one image are joined by ';')"
        )


def _sort_classes(labels: set[str]) -> tuple[str, ...]:
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))
