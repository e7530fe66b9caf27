"""`csv:FILE`: a table with the columns path, label and, if there are splits, split.

    path,label,split            path relative to the table's folder, with forward slashes
    cats/1.jpg,cat,train        label any text; numbers are sorted as numbers
    both/2.jpg,cat;dog,train    several labels joined by ';' anywhere, or a column called `labels`: a multi-label set

Without a split column, 20 % are held out as test, as for `folder:`. Classes are those of all splits together, sorted.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import numpy as np

from layercache.errors import DataError, DataNotFoundError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.datasets.folder import hold_out
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.datasets.in_memory import InMemoryDataset, safe_name

Row = tuple[str, list[str], str]
"""Path, labels, split."""


def csv_table(path: str | os.PathLike[str]) -> InMemoryDataset:
    """The data set that the table lists. Raises DataNotFoundError, DataError (naming the line)."""
    file = Path(path).expanduser().absolute()
    rows, multi_label = _rows(file)
    classes = _sorted({label for _, labels, _ in rows for label in labels})
    number = {c: i for i, c in enumerate(classes)}
    samples: dict[str, Samples] = {}
    for split in dict.fromkeys(split for _, _, split in rows):
        mine = [row for row in rows if row[2] == split]
        targets = np.zeros((len(mine), len(classes)), np.uint8)
        for i, (_, labels, _) in enumerate(mine):
            targets[i, [number[label] for label in labels]] = 1
        samples[split] = FileSamples(
            str(file.parent),
            [p for p, _, _ in mine],
            targets if multi_label else targets.argmax(1).astype(np.int64),
        )
    if list(samples) == [""]:
        _refuse_repeated(file, samples[""].ids)  # one half might be trained on and the other tested
        samples = hold_out(samples[""])
    ordered = {
        split: samples[split]
        for split in sorted(samples, key=lambda s: (s != "train", s == "test"))
    }
    return InMemoryDataset(
        name=safe_name(file.stem), classes=classes, samples=ordered, multi_label=multi_label
    )


def _rows(file: Path) -> tuple[list[Row], bool]:
    try:
        with open(file, newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f, skipinitialspace=True, restkey="", restval=None)
            names = [name.strip().lower() for name in reader.fieldnames or []]
            reader.fieldnames = names
            column = next((c for c in ("label", "labels") if c in names), None)
            if "path" not in names or column is None:
                raise DataError(
                    f"{file}: expected a first line with the columns path, label and perhaps split, found {', '.join(names) or 'nothing'}"
                )
            rows: list[Row] = []
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if (
                    row["path"] is None
                    or row[column] is None
                    or ("split" in names and row["split"] is None)
                    or "" in row
                ):
                    raise DataError(f"{where}: expected {len(names)} fields ({', '.join(names)})")
                path, split = (
                    row["path"].strip().replace("\\", "/"),
                    row["split"].strip() if "split" in names else "",
                )
                if not path or ("split" in names and not split):
                    raise DataError(f"{where}: the {'path' if not path else 'split'} is empty")
                rows.append(
                    (
                        path,
                        [label for part in row[column].split(";") if (label := part.strip())],
                        split,
                    )
                )
    except FileNotFoundError as error:
        raise DataNotFoundError(f"csv:{file}: there is no such file") from error
    except OSError as error:
        raise DataError(f"csv:{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a text in UTF-8: {error}") from error
    if not rows:
        raise DataError(f"{file}: it lists no sample")
    multi_label = column == "labels" or any(len(labels) > 1 for _, labels, _ in rows)
    bare = next((path for path, labels, _ in rows if not labels), None)
    if bare is not None and not multi_label:
        raise DataError(f"{file}: sample {bare!r} has no label")
    return rows, multi_label


def _refuse_repeated(file: Path, paths: list[str]) -> None:
    twice = next((path for path, n in Counter(paths).items() if n > 1), None)
    if twice is not None:
        raise DataError(
            f"{file}: sample {twice!r} comes more than once: list each once (several labels of one image are joined by ';')"
        )


def _sorted(labels: set[str]) -> tuple[str, ...]:
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))
