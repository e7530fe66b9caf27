"""`hf:NAME`: a Hugging Face dataset, by name or saved on disk.

    hf:cifar100?label=fine_label    image= and label= choose columns, config= a configuration
    hf:/data/saved                  written by `DatasetDict.save_to_disk` or `Dataset.save_to_disk`,
                                    or a folder that `load_dataset` reads

Image column: the only one of type Image. Label column: the only ClassLabel, else the first called
label, labels, fine_label or class. Lists of labels make the dataset multi-label. Splits keep their
names, but `validation` becomes "test" where there is no test split; of a single split, 20 % are
held out as for `folder:`. Ids are "<split>/<row, six digits>".
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image

from layercache.errors import DataError, DataNotFoundError, MissingExtraError, OptionError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.datasets.image_files import MAX_HASHED_BYTES
from layercache.extraction.datasets.in_memory import InMemoryDataset, safe_name
from layercache.extraction.datasets.splits import choose_splits, order_splits

LABEL_COLUMNS = ("label", "labels", "fine_label", "class")
"""Names of a label column that is no ClassLabel, in order of preference."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TableSamples:
    """Rows of a table that holds encoded images, N of them."""

    table: Any
    """A `datasets.Dataset`, its image column undecoded; mapped from disk, so cheap to pickle."""
    column: str
    """The image column."""
    prefix: str
    """First part of the ids: the split's name in the source."""
    labels: Array
    """int64 (N,) or uint8 (N, C)."""
    rows: Array
    """int64 (N,): row of each sample in the table."""

    @cached_property
    def ids(self) -> list[str]:
        """The prefix, a slash and the row in the table."""
        return [f"{self.prefix}/{row:06d}" for row in self.rows.tolist()]

    @cached_property
    def content_digest(self) -> str:
        """Digest of the images' bytes, or of their sizes above MAX_HASHED_BYTES."""
        digest = hashlib.sha256()
        sizes: list[int] = []
        total = 0
        for row in range(len(self.rows)):
            encoded = self.read_bytes(row)
            sizes.append(len(encoded))
            total += len(encoded)
            if total <= MAX_HASHED_BYTES:
                digest.update(encoded)
        packed_sizes = np.asarray(sizes, "<i8").tobytes()
        if total > MAX_HASHED_BYTES:
            return f"sizes:{hashlib.sha256(packed_sizes).hexdigest()}"
        digest.update(packed_sizes)
        return f"bytes:{digest.hexdigest()}"

    def read_bytes(self, row: int) -> bytes:
        """Return the encoded image `row`.

        Raises:
            DataError: The table holds no image in this row.
        """
        cell = self.table[int(self.rows[row])][self.column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise DataError(f"sample {self.ids[row]!r}: the table holds no image")
        if cell["bytes"] is not None:
            return cell["bytes"]  # type: ignore[no-any-return]
        return Path(cell["path"]).read_bytes()

    def load(self, row: int) -> Image.Image:
        """Return image `row`."""
        return Image.open(io.BytesIO(self.read_bytes(row)))

    def take(self, rows: Array) -> Self:
        """Return only the given rows, in the given order."""
        return type(self)(self.table, self.column, self.prefix, self.labels[rows], self.rows[rows])


def open_huggingface(location: str) -> InMemoryDataset:
    """Open the dataset "NAME_OR_PATH?image=COLUMN&label=COLUMN&config=NAME".

    Raises:
        MissingExtraError: The package `datasets` is not installed.
        OptionError: An option is unknown.
        DataNotFoundError: The dataset cannot be loaded.
        DataError: Columns are ambiguous, or a label or image is missing.
    """
    name, _, query = location.partition("?")
    options = dict(parse_qsl(query))
    unknown = sorted(options.keys() - {"image", "label", "config"})
    if unknown:
        raise OptionError(
            f"hf:{location}: unknown option {unknown[0]!r}, expected image, label or config"
        )
    tables = _load_tables(name, options.get("config"))
    features = next(iter(tables.values())).features
    image = _image_column(location, features, options.get("image"))
    label = _label_column(location, features, options.get("label"))
    labels, classes, multi_label = _read_labels(location, tables, label)
    samples = {
        split: _samples(table, image, split, labels[split]) for split, table in tables.items()
    }
    return InMemoryDataset(
        name=safe_name(Path(name).name),
        classes=classes,
        samples=order_splits(choose_splits(samples)),
        multi_label=multi_label,
    )


def _load_tables(name: str, config: str | None) -> dict[str, Any]:
    """Return split -> table; a table without splits has the split ""."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "hf") from error
    path = Path(name).expanduser()
    try:
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            loaded = datasets.load_from_disk(str(path))
        else:
            loaded = datasets.load_dataset(str(path) if path.exists() else name, config)
    except Exception as error:  # the library raises its own errors, the hub's and the network's
        raise DataNotFoundError(
            f"hf:{name}: cannot be loaded, neither from the folder {path.absolute()} "
            f"nor by this name: {error}"
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"": loaded}


def _image_column(location: str, features: Mapping[str, Any], requested: str | None) -> str:
    candidates = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    return _choose_column(location, "image", candidates, requested)


def _label_column(location: str, features: Mapping[str, Any], requested: str | None) -> str:
    if requested is not None:
        return _choose_column(location, "label", list(features), requested)
    candidates = [
        name
        for name, feature in features.items()
        if type(_element_type(feature)).__name__ == "ClassLabel"
    ]
    if not candidates:
        candidates = [name for name in LABEL_COLUMNS if name in features][:1]
    return _choose_column(location, "label", candidates, None)


def _choose_column(location: str, role: str, candidates: list[str], requested: str | None) -> str:
    if requested is None and len(candidates) == 1:
        return candidates[0]
    if requested is not None and requested in candidates:
        return requested
    if requested is not None:
        got = repr(requested)
    else:
        got = f"{len(candidates)} ({', '.join(candidates) or 'none'})"
    separator = "&" if "?" in location else "?"
    raise DataError(
        f"hf:{location}: expected one {role} column, got {got}; "
        f"name it: hf:{location}{separator}{role}=COLUMN"
    )


def _element_type(feature: Any) -> Any:
    """Return the type of a list's elements, or the type itself."""
    return getattr(feature, "feature", feature)


def _read_labels(
    location: str, tables: Mapping[str, Any], column: str
) -> tuple[dict[str, Array], tuple[str, ...], bool]:
    """Return labels by split, class names, and whether the dataset is multi-label."""
    feature = next(iter(tables.values())).features[column]
    multi_label = _element_type(feature) is not feature
    values: dict[str, list[Any]] = {}
    for split, table in tables.items():
        cells = list(table[column])
        values[split] = cells if multi_label else [[cell] for cell in cells]
        empty = next((i for i, row in enumerate(values[split]) if row is None or None in row), None)
        if empty is not None:
            raise DataError(f"hf:{location}: sample '{split}/{empty:06d}' has no label")
    names = getattr(_element_type(feature), "names", None)
    if names is not None:
        classes = tuple(names)
        class_number = {i: i for i in range(len(names))}
    else:
        distinct = sorted({value for rows in values.values() for row in rows for value in row})
        classes = tuple(str(value) for value in distinct)
        class_number = {value: i for i, value in enumerate(distinct)}
    if not multi_label:
        # an unknown number is kept for InMemoryDataset to refuse
        labels = {
            split: np.asarray([class_number.get(value, value) for (value,) in rows], np.int64)
            for split, rows in values.items()
        }
        return labels, classes, False
    labels = {}
    for split, rows in values.items():
        labels[split] = np.zeros((len(rows), len(classes)), np.uint8)
        for i, row in enumerate(rows):
            invalid = [value for value in row if value not in class_number]
            if invalid:
                raise DataError(
                    f"hf:{location}: sample '{split}/{i:06d}' has label {invalid[0]}, "
                    f"expected 0 to {len(classes) - 1}"
                )
            labels[split][i, [class_number[value] for value in row]] = 1
    return labels, classes, True


def _samples(table: Any, image: str, split: str, labels: Array) -> Samples:
    import datasets

    undecoded = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    return TableSamples(undecoded, image, split or "all", labels, np.arange(len(labels)))
