"""The search of one probe: its open tasks, and what is kept of it on disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite, nan

import torch

from layercache.probing.heads.spec import BASELINES
from layercache.probing.results.config_score import ConfigKey, ConfigScore, is_pair, training_key
from layercache.probing.results.probe_folder import ProbeFolder
from layercache.probing.results.probe_store import Probe
from layercache.probing.results.training_checkpoints import TrainingCheckpoint, TrainingCheckpoints
from layercache.probing.search.strategies import Stage, count_fits, current_stage
from layercache.probing.search.tasks import RefitTask, SearchResult, SearchTask
from layercache.probing.spec import ProbeSpec
from layercache.probing.splits.train_subset import TrainSubset
from layercache.probing.training.configs_per_pass import pass_bounds

logger = logging.getLogger(__name__)

_ScoreKey = tuple[int | None, ConfigKey, int | None]
"""Fold, configuration and last epoch of a score."""


class SearchState:
    """Resumes a killed search: scores are written to disk as soon as they arrive.

    Configurations in training are saved by the worker every few minutes (`training.autosave`).
    """

    def __init__(
        self,
        number: int,
        spec: ProbeSpec,
        *,
        folder: ProbeFolder,
        subset: TrainSubset,
        replaces: str | None = None,
        device: str = "cpu",
        configs_per_pass: int | None = None,
        same_search: Probe | None = None,
    ) -> None:
        """Load the scores and the unfinished training of an earlier run.

        Args:
            number: Number of the probe among those of the run.
            spec: The probe.
            folder: Its folder.
            subset: Its training samples and folds.
            replaces: Checksum of the complete probe that this one is to replace.
            device: Device to train on.
            configs_per_pass: Maximum number of configurations that train together, or None.
            same_search: A complete probe of the same search, tested on other samples.
        """
        self._same_search = same_search
        self.written = ""
        """Checksum of the record that a worker has written."""
        self._replaces = replaces
        self.spec, self.folder = spec, folder
        self._number, self._subset = number, subset
        scores, self._earlier_seconds = folder.load_search(replaces=replaces)
        self._scores: dict[_ScoreKey, ConfigScore] = {}
        self._issued: Stage | None = None
        self._refit_issued = False
        self._seconds: dict[SearchTask, float] = {}
        self._add(scores)
        self._checkpoints = TrainingCheckpoints(folder.path)
        self._saved: dict[str, TrainingCheckpoint] = {}
        for saved in self._checkpoints.all():
            self._add_saved(saved, device=device, configs_per_pass=configs_per_pass)

    def first_tasks(self, *, configs_per_task: int | None) -> list[SearchTask | RefitTask]:
        """Return the tasks to begin with: the missing scores of each fold, or else the refit.

        Args:
            configs_per_task: Largest number of configurations in a task; None: all of a fold.
        """
        self._configs_per_task = configs_per_task
        if self._same_search is not None:
            return [self._refit_of(self._same_search)]
        return self._tasks(self._stage())

    def _tasks(self, stage: Stage) -> list[SearchTask | RefitTask]:
        """Return tasks for the missing scores of a stage, or else the refit."""
        self._issued = stage
        tasks: list[SearchTask | RefitTask] = []
        for fold in range(self._subset.n_folds):
            missing = [c for c in stage.configs if not self._is_known(c, fold, stage)]
            for saved in self._saved.values():
                if saved.fold == fold and saved.stop_epoch == stage.stop_epoch:
                    tasks.append(self._search_task(fold, saved.configs, stage, saved=saved))
                    keys = {training_key(hparams) for hparams in saved.configs}
                    missing = [c for c in missing if training_key(c) not in keys]
            size = len(missing)
            if self._configs_per_task is not None and self.spec.head not in BASELINES:
                size = self._configs_per_task
                # as in `fit`: those of one dropout rate are computed together
                missing.sort(key=lambda hparams: hparams.get("dropout", 0.0))
            tasks += [
                self._search_task(fold, missing[a:b], stage)
                for a, b in (pass_bounds(len(missing), size) if missing else ())
            ]
        return tasks or [self._refit()]

    def record(self, task: SearchTask, result: SearchResult) -> None:
        """Keep the scores that a task has so far."""
        new = [score for score in result.scores if _key(score) not in self._scores]
        self._seconds[task] = result.seconds + (task.saved.seconds if task.saved else 0.0)
        if new:
            self._add(new)
            self.folder.save_search(
                list(self._scores.values()),
                seconds=self._search_seconds,
                replaces=self._replaces,
            )
            for saved in list(self._saved.values()):
                if self._is_scored(saved):
                    self._checkpoints.delete(self._saved.pop(saved.key))

    def record_saved(self, saved: TrainingCheckpoint) -> None:
        """Note that a worker has saved its training."""
        self._saved[saved.key] = saved

    def describe_kept(self) -> str:
        """Return a description of what a kill would leave, "" for nothing."""
        unit = "configurations" if self._subset.n_folds == 1 else "fits of the search"
        parts = []
        if self._scores:
            stage = self._stage()
            n_known, n_fits = self._count(stage)
            at = "" if stage.stop_epoch is None else f" after epoch {stage.stop_epoch}"
            parts.append(f"{n_known} of {n_fits} {unit} are scored{at}")
        for saved in self._saved.values():
            trained = "the final fit" if saved.fold is None else f"{len(saved.configs)} {unit}"
            verb = "is" if saved.fold is None else "are"
            parts.append(f"{trained} {verb} saved at step {saved.step} of {saved.steps}")
        return ", ".join(parts)

    def describe_best(self) -> str:
        """Return the best validation score so far in words, or "" if there is none."""
        metric = self.spec.selection_metric
        values: dict[int | None, float] = {}
        for score in self._scores.values():
            value = metric.sign * (score.val_metrics or {}).get(metric.name, nan)
            if isfinite(value):
                values[score.stop_epoch] = max(value, values.get(score.stop_epoch, value))
        if not values:
            return ""
        stage = self._stage()
        last = None if None in values else max(epoch for epoch in values if epoch is not None)
        best = metric.sign * values[last]
        shown = f"{100 * best:.2f} %" if metric.percent else f"{best:.4g}"
        at = "" if last is None else f" after epoch {last}"
        n_known, n_fits = self._count(stage)
        count = f"{n_known} of {n_fits} scored"
        if self.spec.search == "halving":
            count = f"{len(stage.configs)} of {len(self.spec.grid)} configurations racing"
        return f"best validation {metric.title} {shown}{at}, {count}"

    def work_left(self, task: SearchTask) -> float:
        """Return the remaining work of the search at the start of a task, in units of that task."""
        epochs = self._epochs() or 1
        stopped: dict[tuple[int | None, ConfigKey], float] = {}
        for fold, key, stop_epoch in self._scores:
            part = 1.0 if stop_epoch is None else stop_epoch / epochs
            stopped[fold, key] = max(part, stopped.get((fold, key), 0.0))
        total = (
            count_fits(self.spec.search, self.spec.grid, epochs=epochs, head=self.spec.head)
            * self._subset.n_folds
        )
        end = 1.0 if task.stop_epoch is None else task.stop_epoch / epochs
        before = sum(stopped.get((task.fold, training_key(c)), 0.0) for c in task.configs)
        work = len(task.configs) * end - before
        return max(1.0, (total - sum(stopped.values())) / work) if work > 0 else 1.0

    def next_tasks(self) -> list[SearchTask | RefitTask]:
        """Return the tasks of the next stage once all scores of this one are known.

        After the last stage that is the refit.
        """
        stage = self._stage()
        n_known, n_fits = self._count(stage)
        if n_known == n_fits:
            return [] if self._refit_issued else [self._refit()]
        return self._tasks(stage) if stage != self._issued else []

    def _stage(self) -> Stage:
        """Return the stage that the scores so far call for."""
        return current_stage(
            self.spec,
            tuple(self._scores.values()),
            n_folds=self._subset.n_folds,
            epochs=self._epochs(),
        )

    def _epochs(self) -> int:
        """Return the number of epochs; 0 for a search that stops no configuration early."""
        if self.spec.search != "halving" or not self._subset.n_folds:
            return 0
        return self.spec.train_config.schedule(len(self._subset.fold(0).train)).epochs

    def _count(self, stage: Stage) -> tuple[int, int]:
        """Return the number of known scores of a stage, and of all; one per configuration."""
        keys = {training_key(hparams) for hparams in stage.configs}
        configs = [hparams for hparams in self.spec.grid if training_key(hparams) in keys]
        configs += [hparams for hparams in stage.configs if is_pair(hparams)]
        folds = range(self._subset.n_folds)
        n_known = sum(self._is_known(c, fold, stage) for c in configs for fold in folds)
        return n_known, len(configs) * len(folds)

    def _is_known(self, hparams: Mapping[str, float], fold: int, stage: Stage) -> bool:
        return (fold, training_key(hparams), stage.stop_epoch) in self._scores

    @property
    def _search_seconds(self) -> float:
        return self._earlier_seconds + sum(self._seconds.values())

    def _search_task(
        self,
        fold: int,
        configs: Sequence[Mapping[str, float]],
        stage: Stage,
        *,
        saved: TrainingCheckpoint | None = None,
    ) -> SearchTask:
        return SearchTask(
            probe=self._number,
            subset=self._subset,
            fold=fold,
            configs=configs,
            saved=saved,
            stop_epoch=stage.stop_epoch,
        )

    def _refit_of(self, probe: Probe) -> RefitTask:
        """Return the refit by the scores of another probe; null in its record stands for NaN."""
        scores = [
            replace(
                config,
                val_metrics=config.val_metrics
                and {n: nan if v is None else v for n, v in config.val_metrics.items()},
            )
            for config in probe.configs
        ]
        curves = probe.curves()
        if curves is not None:
            by_key = {score.key: score for score in curves.scores(probe.spec["grid"])}
            scores = [
                replace(s, losses=by_key[s.key].losses, val_curve=by_key[s.key].val_curve)
                for s in scores
            ]
        return RefitTask(
            probe=self._number,
            subset=self._subset,
            scores=tuple(scores),
            search_seconds=float(probe.row.get("train_seconds") or 0.0),
        )

    def _refit(self) -> RefitTask:
        self._refit_issued = True
        refit_seconds = sum(saved.seconds for saved in self._saved.values() if saved.fold is None)
        return RefitTask(
            probe=self._number,
            subset=self._subset,
            scores=tuple(self._scores.values()),
            search_seconds=self._search_seconds + refit_seconds,
        )

    def _add_saved(
        self, saved: TrainingCheckpoint, *, device: str, configs_per_pass: int | None
    ) -> None:
        """Take over a pass of an earlier run if it can be continued."""
        searched = {key for other in self._saved.values() for key in _score_keys(other)}
        if searched & _score_keys(saved) or self._is_scored(saved):
            return
        reason = ""
        if saved.device != torch.device(device).type:
            reason = f"it trained on {saved.device}, this run on {device}"
        elif configs_per_pass is not None and len(saved.configs) > configs_per_pass:
            reason = f"configs_per_pass is {configs_per_pass}"
        if reason:
            logger.warning(
                "%d configurations that were saved at step %d of %d train again from the start: %s",
                len(saved.configs),
                saved.step,
                saved.steps,
                reason,
            )
            return
        self._saved[saved.key] = saved

    def _is_scored(self, saved: TrainingCheckpoint) -> bool:
        """Return whether a score of a saved pass is known, which makes the saved state useless."""
        return bool(_score_keys(saved) & self._scores.keys())

    def _add(self, scores: Sequence[ConfigScore]) -> None:
        self._scores |= {_key(score): score for score in scores}


def _key(score: ConfigScore) -> _ScoreKey:
    return score.fold, score.training, score.stop_epoch


def _score_keys(saved: TrainingCheckpoint) -> set[_ScoreKey]:
    return {(saved.fold, training_key(hparams), saved.stop_epoch) for hparams in saved.configs}
