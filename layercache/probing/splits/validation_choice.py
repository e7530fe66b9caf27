"""Chooses what selects the configurations: the dataset's own validation split where it has one."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from layercache.cache.cache import Cache, extract_advice
from layercache.errors import OptionError, ProbeError
from layercache.probing.splits.validation_options import LEAVE_ONE_OUT, Validation
from layercache.probing.targets.annotation_columns import check_columns
from layercache.probing.targets.target import Target

logger = logging.getLogger(__name__)

AUTO = "auto"
VAL_NAMES = ("val", "valid", "validation", "dev")
"""Names of a validation split, in any case."""


def choose_validation(
    cache: Cache,
    *,
    target: Target,
    train_split: str,
    test_splits: Sequence[str],
    val_split: str | None = AUTO,
    folds: int | None = None,
    repeats: int = 1,
    group: str | None = None,
    fold_column: str | None = None,
    refit: str = "train",
) -> Validation:
    """Return what selects the configurations, and log it where it is not 20 % of train.

    Args:
        cache: Cache of the probes.
        target: What they predict.
        train_split: Split that they are trained on.
        test_splits: Splits of the cache that they are tested on.
        val_split: Split that selects; None: none; "loo": leave-one-out; "auto": the one called val,
            valid, validation or dev, if there is one and it is not tested on.
        folds: See `Validation`, as for the others.
        repeats: Number of draws.
        group: Column of groups.
        fold_column: Column of folds.
        refit: Samples of the final fit.

    Raises:
        OptionError: Options contradict each other.
        UnknownNameError: There is no such column.
    """
    if val_split is not None and val_split in (train_split, *test_splits):
        role = "trained" if val_split == train_split else "tested"
        raise OptionError(
            f"val_split: split {val_split!r} is {role} on, so it cannot select as well: choose "
            "another split (--val), or None (--val none) for 20 % of the training samples"
        )
    scheme = None
    if val_split == LEAVE_ONE_OUT:
        if LEAVE_ONE_OUT in cache.spec.dataset.splits:
            raise OptionError(
                f"val_split: {LEAVE_ONE_OUT!r} means leave-one-out, and the dataset has a split of "
                "this name: extract it under another name to select by it"
            )
        scheme, val_split = LEAVE_ONE_OUT, None
    of_train = folds is not None or fold_column is not None or repeats > 1
    if val_split == AUTO:
        val_split = _find_val_split(
            cache, target, excluded=(train_split, *test_splits), of_train=of_train
        )
    columns = [name for name in (group, fold_column) if name is not None]
    check_columns(cache, columns)
    digests = cache.annotation_digests if columns else {}
    return Validation(
        split=val_split,
        scheme=scheme,
        folds=folds,
        repeats=repeats,
        group=group,
        fold_column=fold_column,
        refit=refit,
        digests={name: digests[name] for name in columns},
    )


def _find_val_split(
    cache: Cache, target: Target, *, excluded: Sequence[str], of_train: bool
) -> str | None:
    """Return the validation split if it can be used, else log the reason and return None."""
    names = [name for name in cache.spec.dataset.splits if name.casefold() in VAL_NAMES]
    if len(names) > 1:
        raise OptionError(
            f"val_split: the dataset has several validation splits, {', '.join(names)}: choose one "
            "(--val SPLIT), or None (--val none) for 20 % of the training samples"
        )
    if not names:
        return None
    (name,) = names
    instead = "parts of train select" if of_train else "20 % of train selects"
    if of_train:
        logger.info("split %r is not used: %s, as requested", name, instead)
    elif name in excluded:
        logger.info("split %r is tested on, so %s", name, instead)
    elif name not in cache.splits:
        command = f"{extract_advice(cache)} --split {name}"
        logger.warning(
            "split %r of the dataset is not extracted, so %s; to select on it, run: %s",
            name,
            instead,
            command,
        )
    elif problem := _lacks_targets(cache, target, name):
        logger.warning("%s; %s", problem, instead)
    else:
        logger.info("split %r selects the configurations (val_split=None, --val none: not)", name)
        return name
    return None


def _lacks_targets(cache: Cache, target: Target, name: str) -> str:
    """Return why a split has no targets, "" if it has some."""
    try:
        target.rows(cache.split(name))
    except ProbeError as error:
        return str(error)
    return ""
