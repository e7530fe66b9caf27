"""A worker: scores configurations, refits the selected one, and keeps the tokens in memory."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from layercache._devices import float64_device, resolve_device
from layercache.cache.storage.paths import CachePath
from layercache.engine import Emit, Progress
from layercache.engine.worker_process import enter_worker_process
from layercache.probing.data.loader import DatasetLoader
from layercache.probing.refit import refit_and_test
from layercache.probing.results.config_score import ConfigScore
from layercache.probing.results.probe_folder import ProbeFolder
from layercache.probing.results.training_checkpoints import TrainingCheckpoint, TrainingCheckpoints
from layercache.probing.search.tasks import RefitTask, SearchResult, SearchTask
from layercache.probing.search.trainers import make_trainer
from layercache.probing.spec import ProbeSpec
from layercache.probing.training.autosave import Autosave
from layercache.probing.training.search_memory import MEMORY_FRACTION, SearchMemory
from layercache.probing.training.trainer import ProbeTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Options that all tasks of a run share; a picklable worker factory."""

    specs: Sequence[ProbeSpec]
    """The probes of the run."""
    folders: Sequence[CachePath]
    """Folder of each probe."""
    device: str
    """Device to train on."""
    features: str
    """See `Options.features`."""
    memory_budget: int | None
    """Bytes of memory for tokens, see `Options.memory_budget`."""
    disk_cache: int | None
    """Bytes of disk space for streamed tokens, see `Options.disk_cache`."""
    configs_per_pass: int | None
    """See `Options.configs_per_pass`."""
    folder: str = field(default_factory=os.getcwd)
    """Folder that relative paths start from."""

    def __call__(self, emit: Emit, cores: int | None) -> ProbeWorker:
        """Return a worker, after setting up its process if it is one of its own (`cores`)."""
        enter_worker_process(folder=self.folder, cores=cores)
        return ProbeWorker(self, emit)


class ProbeWorker:
    """Runs search and refit tasks one after another."""

    def __init__(self, config: WorkerConfig, emit: Emit) -> None:
        self._config, self._emit = config, emit
        self._device, _ = resolve_device(config.device)
        self._loaders: dict[torch.device, DatasetLoader] = {}
        self._memories: dict[tuple[int, int], SearchMemory] = {}
        """What the search of each (probe, fold) keeps in memory."""

    def __call__(self, task: SearchTask | RefitTask) -> SearchResult | str:
        """Run one task; of a RefitTask, return the checksum of the probe's record."""
        spec = self._config.specs[task.probe]
        self._memories = {key: m for key, m in self._memories.items() if key[0] == task.probe}
        if isinstance(task, SearchTask):
            return self._search(spec, task)
        self._memories.clear()
        return refit_and_test(
            spec,
            task.scores,
            search_seconds=task.search_seconds,
            subset=task.subset,
            folder=ProbeFolder(self._config.folders[task.probe]),
            loader=self._loader(spec),
            trainer=self._trainer(task.probe, fold=None),
        )

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _loader(self, spec: ProbeSpec) -> DatasetLoader:
        """Return the loader of a probe's tokens, kept for those with the same device."""
        device = float64_device(self._device) if spec.needs_float64 else self._device
        if device not in self._loaders:
            if device != self._device:
                logger.info(
                    "%s heads: on %s, as %s has no float64", spec.head, device, self._device
                )
            self._loaders[device] = DatasetLoader(
                device=device,
                mode=self._config.features,
                memory_budget=self._config.memory_budget,
                disk_budget=self._config.disk_cache,
            )
        return self._loaders[device]

    def _search(self, spec: ProbeSpec, task: SearchTask) -> SearchResult:
        started = time.perf_counter()
        scores: list[ConfigScore] = []

        def on_scores(new: Sequence[ConfigScore]) -> None:
            scores.extend(new)
            self._emit(SearchResult(scores=tuple(new), seconds=time.perf_counter() - started))

        dataset = self._loader(spec).train(
            spec.tokens, *spec.train_splits, rows=task.subset.rows, target=spec.target
        )
        fold = task.subset.fold(task.fold)
        fraction = MEMORY_FRACTION / task.subset.n_folds
        memory = self._memories.setdefault(
            (task.probe, task.fold), SearchMemory(memory_fraction=fraction)
        )
        trainer = self._trainer(
            task.probe,
            fold=task.fold,
            saved=task.saved,
            stop_epoch=task.stop_epoch,
            memory=memory,
        )
        trainer.score(
            dataset,
            task.configs,
            train=fold.train,
            val=fold.val,
            fold=task.fold,
            on_scores=on_scores,
            stop_epoch=task.stop_epoch,
        )
        return SearchResult(scores=scores, seconds=time.perf_counter() - started)

    def _trainer(
        self,
        probe: int,
        *,
        fold: int | None,
        saved: TrainingCheckpoint | None = None,
        stop_epoch: int | None = None,
        memory: SearchMemory | None = None,
    ) -> ProbeTrainer:
        spec = self._config.specs[probe]

        def on_progress(done: int, total: int) -> None:
            self._emit(Progress(done, total))

        device = self._loader(spec).device
        return make_trainer(
            spec,
            device=device,
            memory=memory,
            configs_per_pass=len(saved.configs) if saved else self._config.configs_per_pass,
            on_progress=on_progress,
            saver=Autosave(
                TrainingCheckpoints(self._config.folders[probe]),
                probe=spec.id,
                fold=fold,
                device=device.type,
                stop_epoch=stop_epoch,
                on_saved=self._emit,
            ),
        )
