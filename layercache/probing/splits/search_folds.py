"""The folds of a probe's search within its training samples, with groups from the annotations."""

from __future__ import annotations

import logging
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from layercache._units import pluralize
from layercache.cache.reading.split import Split
from layercache.errors import ProbeError
from layercache.probing.heads.spec import CLASSIFICATION
from layercache.probing.spec import ProbeSpec
from layercache.probing.splits.folds import (
    draw_folds,
    fold_numbers,
    given_folds,
    group_numbers,
)
from layercache.probing.splits.stratified_split import Fold, Labels, Rows
from layercache.probing.splits.validation_options import LEAVE_ONE_OUT
from layercache.probing.targets.annotation_columns import read_annotation

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def search_folds(spec: ProbeSpec, labels: Labels, *, split: Split, rows: Rows) -> list[list[Fold]]:
    """Return the folds of each repeat, as positions within the training samples.

    Leave-one-out is one fold that trains on and scores all of them.

    Args:
        spec: The probe.
        labels: Labels of the training samples, or strata of them.
        split: Training split.
        rows: Rows of the split that are the training samples, ascending.

    Raises:
        ProbeError: There are too few samples or groups, a group is in two of the given folds, or a
            fold leaves a single class to train on.
    """
    if spec.validation.scheme == LEAVE_ONE_OUT:
        everything = np.arange(len(rows))
        return [[Fold(everything, everything)]]
    repeats = _draw(spec, labels, split=split, rows=rows)
    if spec.resolved_target.task == CLASSIFICATION:
        for fold in chain.from_iterable(repeats):
            _check_classes(spec, labels[fold.train])
    return repeats


def _draw(spec: ProbeSpec, labels: Labels, *, split: Split, rows: Rows) -> list[list[Fold]]:
    validation = spec.validation
    groups: Rows | None = None
    if validation.group is not None:
        column = read_annotation(spec.tokens.cache, validation.group, split.name).iloc[rows]
        groups, n_missing = group_numbers(column)
        if n_missing:
            logger.warning(
                "%s of %d have no %s: each is a group of its own",
                pluralize(n_missing, "training sample"),
                len(rows),
                validation.group,
            )
    if validation.fold_column is not None:
        given = read_annotation(spec.tokens.cache, validation.fold_column, split.name).iloc[rows]
        numbers = fold_numbers(given)
        if groups is not None:
            _check_groups(groups, numbers, group=str(validation.group), names=column, folds=given)
        return [given_folds(numbers)]
    try:
        return draw_folds(
            labels,
            seed=spec.seed,
            shots=spec.shots,
            n_folds=validation.folds,
            repeats=validation.repeats,
            groups=groups,
        )
    except ProbeError as error:
        raise ProbeError(f"{describe_source(spec, split)}: {error}") from None


def describe_source(spec: ProbeSpec, split: Split) -> str:
    """Return the cache, split and columns of a probe's targets, for errors."""
    target = spec.resolved_target
    where = f"{spec.tokens.cache.path}, split {split.name!r}"
    return where if target.is_label else f"{where}, {target.describe_columns()}"


def _check_classes(spec: ProbeSpec, labels: Labels) -> None:
    """Raise ProbeError if the samples to train on in a fold are all of one class."""
    present = np.unique(labels)
    if len(present) > 1:
        return
    validation = spec.validation
    if validation.fold_column is not None:
        option, remedy = "fold_column", "correct the folds"
    elif validation.group is not None:
        option, remedy = "group", "use more training samples, or leave group out"
    else:
        option, remedy = "folds", "use more training samples, or leave folds out"
    names = [spec.resolved_target.classes[number] for number in present]
    raise ProbeError(
        f"{option}: a fold leaves {pluralize(len(labels), 'sample')} to train on, all of class "
        f"{names[0]!r}, but a head needs at least two classes: {remedy}"
        if names
        else f"{option}: a fold leaves no sample to train on: {remedy}"
    )


def _check_groups(
    groups: Rows, numbers: Rows, *, group: str, names: pd.Series[Any], folds: pd.Series[Any]
) -> None:
    """Raise ProbeError if a group is in two of the given folds."""
    pairs = np.unique(np.stack([groups, numbers], axis=1), axis=0)
    divided = np.flatnonzero(np.bincount(pairs[:, 0]) > 1)
    if not len(divided):
        return
    members = groups == divided[0]
    listed = ", ".join(map(str, folds[members].unique()[:3]))
    raise ProbeError(
        f"fold_column: {pluralize(len(divided), 'group')} of column {group!r} are in several "
        f"folds, such as {names[members].iloc[0]} in {listed}: correct the folds, or leave group "
        "out"
    )
