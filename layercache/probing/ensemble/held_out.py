"""Outputs of the members on training samples that they held out.

A probe stores no outputs on its validation samples, so its selected configuration is trained once
more on each fold of its search, as the search trained it: one fit of the many that the search took.
Samples of several repeats get the mean of their outputs.

Shapes: M members, N samples, C classes, or columns of a regression.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from layercache._devices import float64_device
from layercache.cache.reading.split import Split
from layercache.errors import ProbeError
from layercache.probing.data.loader import DatasetLoader
from layercache.probing.ensemble.members import EnsembleMember
from layercache.probing.progress import describe
from layercache.probing.refit import train_selected
from layercache.probing.search.trainers import make_trainer
from layercache.probing.spec import ProbeSpec
from layercache.probing.splits.folds import group_numbers
from layercache.probing.splits.stratified_split import Rows
from layercache.probing.splits.train_subset import TrainSubset, sample_subset
from layercache.probing.targets.annotation_columns import read_annotation

logger = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]
BATCH_ROWS = 2048
MIN_SAMPLES = 10
"""Fewest samples to fit a pool on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """Outputs of all members on the samples that each of them held out."""

    outputs: NDArray[np.float32]
    """(M, N, C)."""
    targets: Array
    """int64 (N,), 0/1 (N, C), or float64 (N, C) of a regression."""
    groups: Rows | None
    """Number of each sample's group, (N,), if the members kept groups together; else None."""
    out_of_fold: bool
    """True if they are the folds of all training samples, not one part of them."""
    where: str
    """The samples in words: "400 samples of split val"."""


def predict_held_out(
    members: Sequence[EnsembleMember],
    *,
    device: torch.device,
    memory_budget: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> HeldOut:
    """Train the selected configuration of each member on its folds and predict what they hold out.

    Args:
        members: The members.
        device: Device to train on.
        memory_budget: Bytes for tokens; None: half of the free memory.
        on_progress: Called with the fraction that is done.

    Raises:
        ProbeError: A member held out nothing, or the members hold out too few samples in common.
    """
    splits: dict[tuple[Any, str], Split] = {}
    subsets = [_sample_subset(member, splits) for member in members]
    n_fits, fit = sum(subset.n_folds for subset in subsets), 0
    loaders: dict[torch.device, DatasetLoader] = {}
    outputs: list[Array] = []
    for member, subset in zip(members, subsets, strict=True):
        own = float64_device(device) if member.spec.needs_float64 else device
        if own not in loaders:
            loaders[own] = DatasetLoader(device=own, mode="auto", memory_budget=memory_budget)

        def report(fold: int, done: int, total: int, *, fit: int = fit) -> None:
            if on_progress is not None:
                on_progress((fit + fold + done / max(total, 1)) / n_fits)

        outputs.append(_predict(member, subset, loaders[own], on_progress=report))
        fit += subset.n_folds
    in_common = np.isfinite([output[:, 0] for output in outputs]).all(0)
    rows = np.flatnonzero(in_common)
    if len(rows) < MIN_SAMPLES:
        raise ProbeError(_too_few(members, len(rows)))
    spec = members[0].spec
    opened = [splits[spec.tokens.cache.path, name] for name in spec.train_splits]
    targets = np.concatenate([spec.resolved_target.values(split) for split in opened])[rows]
    n_labelled = len(subsets[0].refit_rows)
    out_of_fold = spec.validation.split is None and len(rows) == n_labelled
    where = f"{len(rows)} training samples"
    if spec.validation.split is not None:
        where = f"{len(rows)} samples of split {spec.validation.split}"
    return HeldOut(
        outputs=np.stack([output[rows] for output in outputs]),
        targets=targets,
        groups=_groups(spec, rows),
        out_of_fold=out_of_fold,
        where=where,
    )


def _groups(spec: ProbeSpec, rows: Rows) -> Rows | None:
    """Return the number of the group of each of these rows of the splits; None without groups."""
    import pandas as pd

    column = spec.validation.group
    if column is None:
        return None
    parts = [read_annotation(spec.tokens.cache, column, split) for split in spec.train_splits]
    return group_numbers(pd.concat(parts).iloc[rows])[0]


def _sample_subset(member: EnsembleMember, splits: dict[tuple[Any, str], Split]) -> TrainSubset:
    """Return the training samples and folds of a member; opened splits are added to `splits`."""
    spec = member.spec
    path = spec.tokens.cache.path
    for name in spec.train_splits:
        if (path, name) not in splits:
            splits[path, name] = spec.tokens.cache.split(name)
    subset = sample_subset(spec, *(splits[path, name] for name in spec.train_splits))
    if not subset.n_folds:
        raise ProbeError(
            f"{member.probe.id} held out no samples, as there is one of each class (--shots 1), "
            "so that no pool can be fitted: use probes of at least 2 shots"
        )
    return subset


def _predict(
    member: EnsembleMember,
    subset: TrainSubset,
    loader: DatasetLoader,
    *,
    on_progress: Callable[[int, int, int], None],
) -> NDArray[np.float32]:
    """Return the outputs on the rows of the splits, (rows, C); NaN for those never held out."""
    spec = member.spec
    dataset = loader.train(spec.tokens, *spec.train_splits, rows=subset.rows, target=spec.target)
    total = np.zeros((len(subset.rows), spec.head_spec.classes))
    counts = np.zeros(len(subset.rows), np.int64)
    for number in range(subset.n_folds):
        logger.info("%s, fold %d of %d", describe(spec), number + 1, subset.n_folds)
        trainer = make_trainer(spec, device=loader.device, on_progress=partial(on_progress, number))
        fold = subset.fold(number)
        model = train_selected(trainer, dataset, member.selected, rows=fold.train)
        if model.diverged:
            raise ProbeError(
                f"{member.probe.id}: its selected configuration diverged in fold {number + 1}: "
                "leave it out"
            )
        batches = dataset.iter_batches(fold.val, batch_size=BATCH_ROWS, train=False)
        parts = [model.predict(x).float().cpu().numpy() for x, _ in batches]
        total[fold.val] += np.concatenate(parts)
        counts[fold.val] += 1
    rows = subset.rows
    outputs = np.full((len(subset.roles[0]), total.shape[1]), np.nan, np.float32)
    held_out = counts > 0
    outputs[rows[held_out]] = total[held_out] / counts[held_out, None]
    return outputs


def _too_few(members: Sequence[EnsembleMember], n_rows: int) -> str:
    seeds = sorted({member.spec.seed for member in members})
    text = (
        f"the probes hold out {n_rows} training samples in common, and a pool needs at least "
        f"{MIN_SAMPLES}"
    )
    if len(seeds) > 1:
        return (
            f"{text}: their seeds {', '.join(map(str, seeds))} draw different parts of 20 %; train "
            "them with folds=5 (--folds 5), so that every sample is held out, or with one seed"
        )
    return f"{text}: train them with folds=5 (--folds 5), so that every sample is held out"
