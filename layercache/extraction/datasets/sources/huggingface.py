"""`hf:NAME`: a Hugging Face dataset, by name or saved on disk.

    hf:cifar100?label=fine_label    image= and label= choose columns, config= a configuration
    hf:/data/saved                  written by `DatasetDict.save_to_disk` or `Dataset.save_to_disk`,
                                    or a folder that `load_dataset` reads

Image column: the only one of type Image; image= takes encoded bytes and paths of files, too. Label
column: the only ClassLabel, else the first called
label, labels, fine_label or class. Lists of labels make the dataset multi-label. Each split's
labels are read by the class names of that split, so splits may number their classes differently. A
label that is missing, -1 or NaN is none, and a split without any label is left out. Splits keep
their names, but "Training" and the like become "train", and `validation` becomes "test" where there
is no test split; of a single split, 20 % are held out as for `folder:`. Ids are "<split in the
source>/<row, six digits>".
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote as quote_word
from typing import Any, Self
from urllib.parse import parse_qsl, quote, urlencode

import numpy as np
from PIL import Image

from layercache.cache.format.crc32c import crc32c
from layercache.cache.format.origin import plain_name
from layercache.errors import DataError, DataNotFoundError, MissingExtraError, OptionError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.datasets.change_detection import ABSENT, Stamps
from layercache.extraction.datasets.image_files import (
    MAX_HASHED_BYTES,
    Contents,
    HashedImages,
    hash_image,
    open_encoded,
    read_file,
    read_unchanged,
)
from layercache.extraction.datasets.in_memory import InMemoryDataset
from layercache.extraction.datasets.sources.huggingface_labels import (
    class_names,
    class_numbers,
    drop_unlabelled,
    element_type,
    indicators,
    is_multi_label,
    read_labels,
    unify_names,
)
from layercache.extraction.datasets.splits import (
    choose_splits,
    describe_splits,
    order_splits,
)

LABEL_COLUMNS = ("label", "labels", "fine_label", "class")
"""Names of a label column that is no ClassLabel, in order of preference."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TableSamples(HashedImages):
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
    def _contents(self) -> Contents:
        digest = hashlib.sha256()
        sizes: list[int] = []
        crcs: list[int] = []
        hashes: list[int] = []
        unreadable: dict[str, str] = {}
        total = 0
        for row, sample_id in enumerate(self.ids):
            try:
                encoded = self.read_bytes(row)
            except (DataError, OSError) as error:
                unreadable[sample_id] = str(error)
                sizes.append(ABSENT)
                crcs.append(0)
                hashes.append(0)
                continue
            sizes.append(len(encoded))
            crcs.append(crc32c(encoded))
            total += len(encoded)
            if total <= MAX_HASHED_BYTES:
                digest.update(encoded)
                hashes.append(hash_image(encoded))
        stamps = Stamps(np.asarray(sizes, "<i8"), np.asarray(crcs, np.uint32))
        packed_sizes = stamps.sizes.tobytes()
        if total > MAX_HASHED_BYTES:
            sizes_digest = hashlib.sha256(packed_sizes).hexdigest()
            return Contents(f"sizes:{sizes_digest}", unreadable, None, stamps)
        digest.update(packed_sizes)
        image_hashes = np.asarray(hashes, np.uint64)
        return Contents(f"bytes:{digest.hexdigest()}", unreadable, image_hashes, stamps)

    def read_bytes(self, row: int) -> bytes:
        """Return the encoded image `row`.

        Raises:
            DataError: The table holds no image in this row.
        """
        cell = self.table[int(self.rows[row])][self.column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise DataError("the table holds no image")
        if cell["bytes"] is not None:
            return cell["bytes"]  # type: ignore[no-any-return]
        return read_file(cell["path"])

    def load(self, row: int) -> Image.Image:
        """Return image `row`.

        Raises:
            DataChangedError: It has changed since `content_digest` was made.
            Exception: Whatever reading and opening it raise.
        """
        return open_encoded(read_unchanged(self, row, lambda: (self.read_bytes(row), None)))

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
    tables = order_splits(_load_tables(name, options.get("config")))
    features = next(iter(tables.values())).features
    image = _image_column(location, features, options.get("image"))
    column = _label_column(location, features, options.get("label"), image)
    ignored: Counter[str] = Counter()
    for split, table in list(tables.items()):
        if image not in table.features:
            ignored[f"split {split!r} has no column {image!r}"] += len(tables.pop(split))
    cells = unify_names({split: read_labels(table, column) for split, table in tables.items()})
    multi_label = is_multi_label(location, cells)
    if multi_label:
        drop_unlabelled(cells, ignored)
    classes, notes = class_names(location, cells)
    samples: dict[str, Samples] = {
        split: _samples(
            tables[split],
            image,
            split,
            indicators(location, split, labels, classes)
            if multi_label
            else class_numbers(labels, classes),
        )
        for split, labels in cells.items()
    }
    chosen = choose_splits(samples)
    return InMemoryDataset(
        name=plain_name(Path(name).name),
        classes=classes,
        samples=order_splits(chosen),
        multi_label=multi_label,
        ignored=ignored,
        notes=(*notes, *describe_splits(samples, chosen)),
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
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    others = [name for name, feature in features.items() if _may_hold_images(feature)]
    return _choose_column(location, "image", images, requested, choices=[*images, *others])


def _may_hold_images(feature: Any) -> bool:
    """Return whether `datasets` can cast a column to images: of encoded bytes, or of paths."""
    if isinstance(feature, Mapping):
        return not feature.keys().isdisjoint(("bytes", "path"))
    return str(getattr(feature, "dtype", "")).removeprefix("large_") in ("string", "binary")


def _label_column(
    location: str, features: Mapping[str, Any], requested: str | None, image: str
) -> str:
    candidates = [
        name
        for name, feature in features.items()
        if type(element_type(feature)).__name__ == "ClassLabel"
    ]
    if not candidates:
        candidates = [name for name in LABEL_COLUMNS if name in features][:1]
    choices = [
        name
        for name, feature in features.items()
        if name != image and type(feature).__name__ != "Image"
    ]
    return _choose_column(location, "label", candidates, requested, choices=choices)


def _choose_column(
    location: str,
    role: str,
    candidates: Sequence[str],
    requested: str | None,
    *,
    choices: Sequence[str],
) -> str:
    """Return the requested column if it is one of `choices`, by default the only candidate."""
    if requested is None and len(candidates) == 1:
        return candidates[0]
    if requested is not None and requested in choices:
        return requested
    if requested is not None:
        got = repr(requested)
    else:
        got = f"{len(candidates)} ({', '.join(candidates) or 'none'})"
    if not choices:
        raise DataError(f"hf:{location}: expected one {role} column, got a table without any")
    name, _, query = location.partition("?")
    options = urlencode(dict(parse_qsl(query)) | {role: choices[0]}, quote_via=quote)
    raise DataError(
        f"hf:{location}: expected one {role} column, got {got}: choose one of "
        f"{', '.join(choices)}, as in {quote_word(f'hf:{name}?{options}')}"
    )


def _samples(table: Any, image: str, split: str, labels: Array) -> Samples:
    import datasets

    undecoded = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    return TableSamples(undecoded, image, split or "all", labels, np.arange(len(labels)))
