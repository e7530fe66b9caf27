"""The search of one cell, as the one who hands out its tasks sees it: what is still to be scored, and what is kept of it meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layercache.probing.evaluation import Key, TrainSubset, key_of
from layercache.probing.results.probe_store import ProbeFolder
from layercache.probing.spec import BASELINES, ProbeSpec
from layercache.probing.training.fit import group_bounds
from layercache.probing.training.trainer import ConfigScore
from layercache.probing.worker import RefitTask, SearchResult, SearchTask


class SearchState:
    """Begins where a killed run stopped. The scores of each group of settings are kept on the disk as soon as they are there."""

    def __init__(
        self, number: int, cell: ProbeSpec, *, folder: ProbeFolder, drawn: TrainSubset
    ) -> None:
        """`number`: of the cell among those of the run."""
        self.cell, self.folder, self._number, self._folds = cell, folder, number, len(drawn.folds)
        state = folder.searched()
        self._scores: dict[tuple[int, Key], ConfigScore] = {}
        self._earlier = float(state.get("seconds", 0.0))
        self._seconds: dict[SearchTask, float] = {}
        self._add([ConfigScore(**score) for score in state.get("scores", [])])

    def tasks(self, *, group_size: int | None) -> list[SearchTask | RefitTask]:
        """What is to be done first. group_size: one task for each group of so many settings; None: one for each fold."""
        found: list[SearchTask | RefitTask] = []
        for fold in range(self._folds):
            missing = [
                setting for setting in self.cell.grid if (fold, key_of(setting)) not in self._scores
            ]
            whole = group_size is None or self.cell.head in BASELINES
            found += [
                SearchTask(cell=self._number, fold=fold, settings=part)
                for part in ([missing] if whole else _groups(missing, group_size))
                if part
            ]
        return found or [self._final()]

    def keep(self, search: SearchTask, scored: SearchResult) -> None:
        """Takes what is known so far of a search."""
        new = [
            score
            for score in scored.scores
            if (score.fold, key_of(score.setting)) not in self._scores
        ]
        self._seconds[search] = scored.seconds
        if new:
            self._add(new)
            self.folder.save_search(
                {"scores": [vars(score) for score in self._scores.values()], "seconds": self._spent}
            )

    def next(self) -> list[SearchTask | RefitTask]:
        """The final fit, once every setting has its scores on every fold."""
        done = all(
            (fold, key_of(setting)) in self._scores
            for fold in range(self._folds)
            for setting in self.cell.grid
        )
        return [self._final()] if done else []

    @property
    def _spent(self) -> float:
        return self._earlier + sum(self._seconds.values())

    def _final(self) -> RefitTask:
        return RefitTask(cell=self._number, scores=tuple(self._scores.values()), spent=self._spent)

    def _add(self, scores: Sequence[ConfigScore]) -> None:
        self._scores |= {(score.fold, key_of(score.setting)): score for score in scores}


def _groups(
    settings: Sequence[Mapping[str, float]], size: int | None
) -> list[Sequence[Mapping[str, float]]]:
    return [settings[a:b] for a, b in group_bounds(len(settings), size or len(settings))]
