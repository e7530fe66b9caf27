"""A data set that knows its samples: what every source builds, checked once, when it is built."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from layercache.errors import DataError, UnknownNameError
from layercache.extraction.datasets.base import Samples


@dataclass(frozen=True, kw_only=True)
class InMemoryDataset:
    """Named splits of samples and the classes that their labels count. Raises DataError when they do not fit together."""

    name: str
    """Safe as a folder name."""
    classes: tuple[str, ...]
    """Class names in label order."""
    samples: Mapping[str, Samples]
    """The splits, in order."""
    multi_label: bool = False
    """Labels are uint8 (N, C) 0/1 instead of int64 (N,)."""
    ignored: Mapping[str, int] = field(default_factory=dict)
    """What the source saw and left out, e.g. {"files that are no images": 3}; for the listing, not part of the identity."""

    def __post_init__(self) -> None:
        if not self.samples:
            raise DataError(f"data set {self.name}: it has no split")
        repeated = [c for c, n in Counter(self.classes).items() if n > 1]
        if repeated:
            raise DataError(
                f"data set {self.name}: class names must differ, {repeated[0]!r} comes more than once"
            )
        for split, samples in self.samples.items():
            check(
                samples,
                classes=self.classes,
                multi_label=self.multi_label,
                where=f"data set {self.name}, split {split}",
            )

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.samples)

    def open(self, split: str) -> Samples:
        """The samples of one split. Raises UnknownNameError."""
        if split not in self.samples:
            raise UnknownNameError(f"split of data set {self.name}", split, self.samples)
        return self.samples[split]


def check(samples: Samples, *, classes: tuple[str, ...], multi_label: bool, where: str) -> None:
    """Raises DataError, naming the sample, unless there are samples, ids differ and labels lie within the classes."""
    ids, labels = samples.ids, samples.labels
    if not ids:
        raise DataError(f"{where}: it has no samples")
    want = (len(ids), len(classes)) if multi_label else (len(ids),)
    if labels.shape != want:
        raise DataError(f"{where}: expected labels of shape {want}, found {labels.shape}")
    if len(set(ids)) != len(ids):
        twice = next(i for i, n in Counter(ids).items() if n > 1)
        raise DataError(f"{where}: ids must differ, {twice!r} comes more than once")
    check_text(ids, where=where)
    if multi_label:
        bad = np.flatnonzero((labels > 1).any(1))
        expected = "0 or 1 for every class"
    else:
        bad = np.flatnonzero((labels < 0) | (labels >= len(classes)))
        expected = f"0 to {len(classes) - 1} ({len(classes)} classes)"
    if bad.size:
        raise DataError(
            f"{where}: sample {ids[bad[0]]!r} has label {labels[bad[0]].tolist()}, expected {expected}; {bad.size} sample(s) are like it"
        )


def check_text(names: Iterable[str], *, where: str) -> None:
    """Raises DataError for a name that is not valid Unicode (a file name in another encoding): its bytes would differ from machine to machine."""
    joined = "\n".join(names)
    try:
        joined.encode()
    except UnicodeEncodeError as error:
        name = next(n for n in joined.split("\n") if any("\ud800" <= c <= "\udfff" for c in n))
        raise DataError(
            f"{where}: the file name {name!r} is not valid UTF-8: rename the file"
        ) from error


def safe_name(text: str) -> str:
    """`text` as a folder name: letters, digits, dot, dash and underscore; anything else becomes an underscore."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or "data"
