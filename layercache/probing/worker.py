"""A worker that scores groups of settings and trains chosen heads: it holds the features of the tokens it saw last.

What it is asked for comes from `search.py`. Shapes: none here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from layercache.engine import Emit, Progress
from layercache.probing.baselines import Baseline
from layercache.probing.budget import parse_bytes, parse_disk, resolve_device
from layercache.probing.data.loader import Loader
from layercache.probing.evaluation import TrainSubset, refit_and_test, sample_subset
from layercache.probing.results.probe_store import PROBES, ProbeFolder
from layercache.probing.spec import BASELINES, ProbeSpec
from layercache.probing.training.trainer import ConfigScore, ProbeTrainer, SGDTrainer


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchTask:
    """Score some settings of a cell on one fold: a task, whose result is a Scored."""

    cell: int
    fold: int
    settings: Sequence[Mapping[str, float]]

    def __str__(self) -> str:
        return f"{len(self.settings)} settings of probe {self.cell + 1}"


@dataclass(frozen=True, kw_only=True, eq=False)
class RefitTask:
    """Choose by the scores, train on all, test and keep: a task without a result, but for the probe on the disk."""

    cell: int
    scores: Sequence[ConfigScore]
    """Of all settings on all folds."""
    spent: float
    """Seconds of the search."""

    def __str__(self) -> str:
        return f"the final fit of probe {self.cell + 1}"


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult:
    """What is known so far of a Search: a message, and its result."""

    scores: Sequence[ConfigScore]
    seconds: float
    """Since it began."""


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What all tasks of a run have in common. Picklable."""

    cells: Sequence[ProbeSpec]
    device: str
    features: str
    """See options.Options, as the next three."""
    memory: int | str | None
    disk_cache: int | str | None
    group_size: int | None
    cut: bool
    """Searches hold one group each, so that the size of a group is nothing to tell."""
    folder: str = field(default_factory=os.getcwd)
    """Where relative paths begin."""

    def __call__(self, tell: Emit, cores: int | None) -> ProbeWorker:
        """A worker; elsewhere as many threads compute as it asked for cores, which is as many as where the command runs."""
        if cores is not None:
            with suppress(OSError):  # whose paths are absolute does without
                os.chdir(self.folder)
            torch.set_num_threads(cores)
        return ProbeWorker(self, tell)


class ProbeWorker:
    """The worker."""

    def __init__(self, training: WorkerConfig, tell: Emit) -> None:
        self._training, self._tell = training, tell
        device, _ = resolve_device(training.device)
        budget = None if training.memory is None else parse_bytes(training.memory)
        disk = None if training.disk_cache is None else parse_disk(training.disk_cache)
        self._loader = Loader(
            device=device, mode=training.features, budget=budget, say=tell, disk=disk
        )
        self._drawn: dict[int, TrainSubset] = {}

    def __call__(self, task: SearchTask | RefitTask) -> Any:
        """A Scored, or None."""
        cell = self._training.cells[task.cell]
        if task.cell not in self._drawn:
            self._drawn = {
                task.cell: sample_subset(cell, self._loader, lambda _: None)
            }  # said already, where the tasks come from
        drawn, method = self._drawn[task.cell], self._method(cell)
        if isinstance(task, RefitTask):
            folder = ProbeFolder(cell.tokens.cache.path / PROBES / cell.id)
            refit_and_test(
                cell,
                task.scores,
                spent=task.spent,
                drawn=drawn,
                folder=folder,
                loader=self._loader,
                method=method,
            )
            return None
        began = time.perf_counter()
        scores: list[ConfigScore] = []

        def keep(found: Sequence[ConfigScore]) -> None:
            scores.extend(found)
            self._tell(SearchResult(scores=tuple(found), seconds=time.perf_counter() - began))

        features, fold = (
            self._loader.train(cell.tokens, cell.train, keep=drawn.keep),
            drawn.folds[task.fold],
        )
        method.score(
            features, task.settings, train=fold.train, val=fold.val, fold=task.fold, keep=keep
        )
        return SearchResult(scores=scores, seconds=time.perf_counter() - began)

    def close(self) -> None:
        """Nothing to end."""

    def _method(self, cell: ProbeSpec) -> ProbeTrainer:
        def progress(done: int, total: int) -> None:
            self._tell(Progress(done, total))

        if cell.head in BASELINES:
            return Baseline(name=cell.head, shape=cell.shape, progress=progress)
        return SGDTrainer(
            shape=cell.shape,
            protocol=cell.protocol,
            seed=cell.seed,
            device=self._loader.device,
            precision=cell.precision,
            group_size=self._training.group_size,
            progress=progress,
            say=None if self._training.cut else self._tell,
        )
