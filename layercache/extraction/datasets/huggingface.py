"""`hf:NAME`: a Hugging Face data set, by name or saved on disk (`save_to_disk`, or a folder that `load_dataset` reads).

    hf:cifar100?label=fine_label      columns can be given where several would do: image=, label=, and config= for a configuration
    hf:/data/saved                    what `DatasetDict.save_to_disk` or `Dataset.save_to_disk` wrote

Image column: the only one of type Image. Label column: the only ClassLabel; else one called label, labels, fine_label or class.
A list of labels makes the set multi-label. Splits keep their names, but `validation` serves as "test" where there is no test; a single split is
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
from layercache.extraction.datasets.folder import VALIDATION, hold_out
from layercache.extraction.datasets.image_files import HASHED_IN_FULL
from layercache.extraction.datasets.in_memory import InMemoryDataset, safe_name

LABEL_NAMES = ("label", "labels", "fine_label", "class")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TableSamples:
    """Rows of a table with encoded images."""

    table: Any
    """The `datasets.Dataset`, its image column undecoded; mapped from disk, so that little of it is pickled."""
    column: str
    """The image column."""
    prefix: str
    """The split's name in the source."""
    labels: Array
    """int64 (N,) or uint8 (N, C)."""
    rows: Array
    """int64 (N,): row of each sample in the table."""

    @cached_property
    def ids(self) -> list[str]:
        """Prefix, slash, row."""
        return [f"{self.prefix}/{i:06d}" for i in self.rows.tolist()]

    @cached_property
    def content(self) -> str:
        """Digest of the images' bytes, or of their sizes above HASHED_IN_FULL."""
        digest, sizes, total = hashlib.sha256(), [], 0
        for row in range(len(self.rows)):
            data = self.bytes(row)
            sizes.append(len(data))
            total += len(data)
            if total <= HASHED_IN_FULL:
                digest.update(data)
        packed = np.asarray(sizes, "<i8").tobytes()
        if total > HASHED_IN_FULL:
            return f"sizes:{hashlib.sha256(packed).hexdigest()}"
        digest.update(packed)
        return f"bytes:{digest.hexdigest()}"

    def bytes(self, row: int) -> bytes:
        """The image file. Raises DataError where the cell is empty."""
        cell = self.table[int(self.rows[row])][self.column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise DataError(f"sample {self.ids[row]!r}: the table holds no image")
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()

    def load(self, row: int) -> Image.Image:
        """Image `row`."""
        return Image.open(io.BytesIO(self.bytes(row)))

    def take(self, rows: Array) -> Self:
        """Only these rows, in this order."""
        return type(self)(self.table, self.column, self.prefix, self.labels[rows], self.rows[rows])


def huggingface(where: str) -> InMemoryDataset:
    """The data set `where`, "NAME_OR_PATH?image=..&label=..&config=..". Raises MissingExtraError, OptionError, DataNotFoundError, DataError."""
    place, _, query = where.partition("?")
    options = dict(parse_qsl(query))
    unknown = sorted(options.keys() - {"image", "label", "config"})
    if unknown:
        raise OptionError(
            f"hf:{where}: unknown option {unknown[0]!r}, expected image, label or config"
        )
    tables = _load(place, options.get("config"))
    first = next(iter(tables.values()))
    image, label = (
        _image_column(where, first, options.get("image")),
        _label_column(where, first, options.get("label")),
    )
    targets, classes, multi_label = _targets(where, tables, label)
    samples = {
        split: _samples(table, image, split, targets[split]) for split, table in tables.items()
    }
    return InMemoryDataset(
        name=safe_name(Path(place).name),
        classes=classes,
        samples=_splits(samples),
        multi_label=multi_label,
    )


def _load(place: str, config: str | None) -> dict[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "hf") from error
    path = Path(place).expanduser()
    try:
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            loaded = datasets.load_from_disk(str(path))
        else:
            loaded = datasets.load_dataset(str(path) if path.exists() else place, config)
    except Exception as error:  # the library raises its own, the hub's and the network's kinds
        raise DataNotFoundError(
            f"hf:{place}: cannot be loaded, neither from the folder {path.absolute()} nor by this name: {error}"
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"": loaded}


def _image_column(where: str, table: Any, given: str | None) -> str:
    found = [name for name, feature in table.features.items() if type(feature).__name__ == "Image"]
    return _choose(where, "image", found, given)


def _label_column(where: str, table: Any, given: str | None) -> str:
    if given is not None:
        return _choose(where, "label", list(table.features), given)
    found = [
        name
        for name, feature in table.features.items()
        if type(_inner(feature)).__name__ == "ClassLabel"
    ]
    return _choose(
        where, "label", found or [name for name in LABEL_NAMES if name in table.features][:1], None
    )


def _choose(where: str, what: str, found: list[str], given: str | None) -> str:
    if given is None and len(found) == 1:
        return found[0]
    if given in found:
        assert given is not None
        return given
    came = f"{given!r}" if given is not None else f"{len(found)} ({', '.join(found) or 'none'})"
    raise DataError(
        f"hf:{where}: expected one {what} column, found {came}; name it: hf:{where}{'&' if '?' in where else '?'}{what}=COLUMN"
    )


def _inner(feature: Any) -> Any:
    """The element's type of a list, else the type itself."""
    return getattr(feature, "feature", feature)


def _targets(
    where: str, tables: Mapping[str, Any], column: str
) -> tuple[dict[str, Array], tuple[str, ...], bool]:
    """Labels by split, classes, and whether an image may have several."""
    feature = next(iter(tables.values())).features[column]
    cells = {split: list(table[column]) for split, table in tables.items()}
    multi_label = _inner(feature) is not feature
    named = getattr(_inner(feature), "names", None)
    flat = {
        split: [cell if multi_label else [cell] for cell in column_cells]
        for split, column_cells in cells.items()
    }
    for split, rows in flat.items():
        empty = next((i for i, row in enumerate(rows) if row is None or None in row), None)
        if empty is not None:
            raise DataError(f"hf:{where}: sample '{split}/{empty:06d}' has no label")
    values = sorted({value for rows in flat.values() for row in rows for value in row})
    number = (
        {value: i for i, value in enumerate(values)}
        if named is None
        else {i: i for i in range(len(named))}
    )
    classes = tuple(str(v) for v in values) if named is None else tuple(named)
    targets = {}
    for split, rows in flat.items():
        if not multi_label:
            targets[split] = np.asarray([number.get(row[0], row[0]) for row in rows], np.int64)
            continue
        targets[split] = np.zeros((len(rows), len(classes)), np.uint8)
        for i, row in enumerate(rows):
            wrong = [v for v in row if v not in number]
            if wrong:
                raise DataError(
                    f"hf:{where}: sample '{split}/{i:06d}' has label {wrong[0]}, expected 0 to {len(classes) - 1}"
                )
            targets[split][i, [number[v] for v in row]] = 1
    return targets, classes, multi_label


def _samples(table: Any, image: str, split: str, labels: Array) -> Samples:
    import datasets

    undecoded = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    return TableSamples(undecoded, image, split or "all", labels, np.arange(len(labels)))


def _splits(samples: dict[str, Samples]) -> dict[str, Samples]:
    if len(samples) == 1 and next(iter(samples)) != "test":
        return hold_out(next(iter(samples.values())))
    if "test" not in samples:
        stand_in = next((v for v in VALIDATION if v in samples), None)
        samples = {"test" if split == stand_in else split: s for split, s in samples.items()}
    return {
        split: samples[split]
        for split in sorted(samples, key=lambda s: (s != "train", s == "test"))
    }
