"""The search of one probe: its open tasks, and the scores so far, which are kept on disk."""

from __future__ import annotations

from collections.abc import Sequence

from layercache.probing.config_score import ConfigKey, ConfigScore, config_key
from layercache.probing.data.train_subset import TrainSubset
from layercache.probing.results.probe_store import ProbeFolder
from layercache.probing.spec import BASELINES, ProbeSpec
from layercache.probing.training.memory import pass_bounds
from layercache.probing.worker import RefitTask, SearchResult, SearchTask


class SearchState:
    """Resumes a killed search: scores are written to disk as soon as they arrive."""

    def __init__(
        self,
        number: int,
        spec: ProbeSpec,
        *,
        folder: ProbeFolder,
        subset: TrainSubset,
        replaces: str | None = None,
    ) -> None:
        """Load the scores of an earlier run.

        Args:
            number: Number of the probe among those of the run.
            spec: The probe.
            folder: Its folder.
            subset: Its training samples and folds.
            replaces: Checksum of the complete probe that this one is to replace.
        """
        self.written = ""
        """Checksum of the record that a worker has written."""
        self._replaces = replaces
        self.spec, self.folder = spec, folder
        self._number, self._subset = number, subset
        scores, self._earlier_seconds = folder.load_search(replaces=replaces)
        self._scores: dict[tuple[int | None, ConfigKey], ConfigScore] = {}
        self._seconds: dict[SearchTask, float] = {}
        self._add(scores)

    def first_tasks(self, *, configs_per_task: int | None) -> list[SearchTask | RefitTask]:
        """Return the tasks to begin with: the missing scores of each fold, or else the refit.

        Args:
            configs_per_task: Largest number of configurations in a task; None: all of a fold.
        """
        tasks: list[SearchTask | RefitTask] = []
        for fold in range(self._subset.n_folds):
            missing = [c for c in self.spec.grid if (fold, config_key(c)) not in self._scores]
            size = len(missing)
            if configs_per_task is not None and self.spec.head not in BASELINES:
                size = configs_per_task
            tasks += [
                SearchTask(probe=self._number, subset=self._subset, fold=fold, configs=missing[a:b])
                for a, b in (pass_bounds(len(missing), size) if missing else ())
            ]
        return tasks or [self._refit()]

    def record(self, task: SearchTask, result: SearchResult) -> None:
        """Keep the scores that a task has so far."""
        new = [s for s in result.scores if (s.fold, s.key) not in self._scores]
        self._seconds[task] = result.seconds
        if new:
            self._add(new)
            self.folder.save_search(
                list(self._scores.values()),
                seconds=self._search_seconds,
                replaces=self._replaces,
            )

    def next_tasks(self) -> list[SearchTask | RefitTask]:
        """Return the refit if every configuration has its score on every fold, else nothing."""
        done = all(
            (fold, config_key(hparams)) in self._scores
            for fold in range(self._subset.n_folds)
            for hparams in self.spec.grid
        )
        return [self._refit()] if done else []

    @property
    def _search_seconds(self) -> float:
        return self._earlier_seconds + sum(self._seconds.values())

    def _refit(self) -> RefitTask:
        return RefitTask(
            probe=self._number,
            subset=self._subset,
            scores=tuple(self._scores.values()),
            search_seconds=self._search_seconds,
        )

    def _add(self, scores: Sequence[ConfigScore]) -> None:
        self._scores |= {(score.fold, score.key): score for score in scores}
