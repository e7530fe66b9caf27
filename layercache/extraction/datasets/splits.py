"""Names of splits in their usual forms, and the splits that a dataset offers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from layercache.extraction.datasets.base import Samples
from layercache.extraction.datasets.subsampling import hold_out_test

T = TypeVar("T")

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""Usual form of a split's name, in lower case -> the split."""

_FILLERS = frozenset({"set", "split", "data", "dataset", "folder", "images", "imgs", "seg"})
"""Words that stand next to a split's name, as in "train_images" or "Test Set"."""


def split_of(name: str) -> str | None:
    """Return "train", "val" or "test" if `name` is a usual form of it, in any case, else None.

    "Training", "TEST", "test_set", "testset", "seg_train" and "val2017" are such forms; "train
    station" is none.
    """
    words = [word for word in re.split(r"[\W_\d]+", name.casefold()) if word not in _FILLERS]
    words = [word for word in words if word]
    if len(words) != 1:
        return None
    return SPLIT_WORDS.get(words[0]) or SPLIT_WORDS.get(words[0].removesuffix("set"))


def order_splits(splits: Mapping[str, T]) -> dict[str, T]:
    """Return the splits with "train" first and "test" last."""
    names = sorted(splits, key=lambda name: (name != "train", name == "test"))
    return {name: splits[name] for name in names}


def drop_unlabelled(samples: Mapping[str, Samples], ignored: Counter[str]) -> dict[str, Samples]:
    """Leave out splits in which no sample has a label, and count their images.

    If no split has a label, all are kept, for an error that names a sample.

    Args:
        samples: Split -> samples; a label of -1 is none.
        ignored: Reason -> number of files left out; added to.
    """
    labelled = {
        split: s for split, s in samples.items() if s.labels.ndim > 1 or np.any(s.labels >= 0)
    }
    if not labelled:
        return dict(samples)
    for split, unlabelled in samples.items():
        if split not in labelled:
            ignored[f"split {split!r}: no image has a label"] += len(unlabelled.labels)
    return labelled


def choose_splits(samples: Mapping[str, Samples], *, divide: bool = True) -> dict[str, Samples]:
    """Return the splits under their usual names, with a split "test" if one can be made.

    "Training" and the like become "train", "Testing" and the like "test", unless two splits claim
    the name. Without "test", the validation split becomes "test", under any of its usual names.

    Args:
        samples: Split -> samples.
        divide: Whether a single split under another name than "test" is divided into 80 % train
            and 20 % test.
    """
    claims = Counter(split_of(split) for split in samples)
    named: dict[str, Samples] = {}
    for name, split in samples.items():
        usual = split_of(name)
        named[usual if usual in ("train", "test") and claims[usual] == 1 else name] = split
    if "test" in named:
        return named
    if len(named) == 1:
        return hold_out_test(next(iter(named.values()))) if divide else named
    words = list(SPLIT_WORDS)
    validation = [name for name in named if split_of(name) == "val"]
    stand_in = min(
        validation,
        key=lambda name: words.index(name) if name in words else len(words),
        default=None,
    )
    return {"test" if name == stand_in else name: split for name, split in named.items()}


def describe_test_split(
    samples: Mapping[str, Samples], chosen: Mapping[str, Samples]
) -> tuple[str, ...]:
    """Return a note if "test" of the chosen splits is not the source's own test split."""
    if "test" not in chosen:
        return ()
    source = next((name for name, split in samples.items() if split is chosen["test"]), None)
    if source is None:
        return ("there is no test split: test is 20 % of the images, which training does not use",)
    if split_of(source) == "val":
        return (f"there is no test split: test is the split {source!r}",)
    return ()
