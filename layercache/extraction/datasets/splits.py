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

UNLABELLED = "unlabelled_"
"""Start of the name of a split without labels whose own name another one has."""

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


def choose_splits(samples: Mapping[str, Samples], *, divide: bool = True) -> dict[str, Samples]:
    """Return the splits under their usual names, with a split "test" if one can be made.

    "Training" and the like become "train", "Testing" and the like "test", unless two splits claim
    the name. Without "test", the validation split becomes "test", under any of its usual names.
    A split in which no sample has a label takes no such part; see `add_unlabelled`.

    Args:
        samples: Split -> samples.
        divide: Whether a single split under another name than "test" is divided into 80 % train
            and 20 % test.
    """
    labelled = {name: split for name, split in samples.items() if has_labels(split)} or samples
    unlabelled = {name: split for name, split in samples.items() if name not in labelled}
    return add_unlabelled(_choose_labelled(labelled, divide=divide), unlabelled)


def has_labels(samples: Samples) -> bool:
    """Return whether any sample of a split has a label."""
    labels = samples.labels
    return bool(labels.ndim > 1 or np.any(labels >= 0))


def add_unlabelled(
    chosen: Mapping[str, Samples], unlabelled: Mapping[str, Samples]
) -> dict[str, Samples]:
    """Return the splits with those that have no labels, under their names where these are free.

    Otherwise "test" is called "unlabelled_test".
    """
    added = {
        name if name not in chosen else f"{UNLABELLED}{name}": split
        for name, split in unlabelled.items()
    }
    return {**chosen, **added}


def _choose_labelled(samples: Mapping[str, Samples], *, divide: bool) -> dict[str, Samples]:
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


def describe_splits(
    samples: Mapping[str, Samples], chosen: Mapping[str, Samples]
) -> tuple[str, ...]:
    """Return notes on splits that are not the source's own of that name."""
    notes = tuple(
        f"the split {name.removeprefix(UNLABELLED)!r} has no labels: it is called {name}"
        for name in chosen
        if name.startswith(UNLABELLED)
    )
    return _describe_test_split(samples, chosen) + notes


def _describe_test_split(
    samples: Mapping[str, Samples], chosen: Mapping[str, Samples]
) -> tuple[str, ...]:
    if "test" not in chosen:
        return ()
    source = next((name for name, split in samples.items() if split is chosen["test"]), None)
    if source is None:
        return ("there is no test split: test is 20 % of the images, which training does not use",)
    if split_of(source) == "val":
        return (f"there is no test split: test is the split {source!r}",)
    return ()
