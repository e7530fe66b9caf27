from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layercache.probing.config_score import ConfigScore
from layercache.probing.data.train_subset import TrainSubset
from layercache.probing.heads import HeadSpec
from layercache.probing.results.probe_store import ProbeFolder
from layercache.probing.search_state import SearchState
from layercache.probing.spec import ProbeSpec, select_tokens
from layercache.probing.training.config import TrainConfig
from layercache.probing.worker import RefitTask, SearchResult, SearchTask

GRID = tuple({"lr": lr} for lr in (0.1, 0.2, 0.3))


@pytest.fixture
def new_state(planted: Callable[..., Any], tmp_path: Path) -> Callable[..., SearchState]:
    """new_state(n_folds=): a SearchState of GRID on the same folder each time."""
    spec = ProbeSpec(
        tokens=select_tokens(planted(), head="linear", layers="last", tokens="cls"),
        head="linear",
        head_spec=HeadSpec(kind="linear", tokens=1, width=8, classes=3),
        grid=GRID,
        seed=0,
        shots=None,
        train_fraction=None,
        train_config=TrainConfig(),
        precision="fp32",
    )

    def make(n_folds: int = 1) -> SearchState:
        subset = TrainSubset(roles=np.zeros(4, np.int8), n_folds=n_folds, empty_classes=())
        return SearchState(7, spec, folder=ProbeFolder(tmp_path / "probe"), subset=subset)

    return make


def result(*lrs: float, fold: int = 0) -> SearchResult:
    scores = [ConfigScore(hparams={"lr": lr}, fold=fold, val_metrics={"a": lr}) for lr in lrs]
    return SearchResult(scores=scores, seconds=1.5)


def test_first_tasks_cover_every_fold_in_parts_of_equal_size(
    new_state: Callable[..., SearchState],
) -> None:
    whole = new_state(2).first_tasks(configs_per_task=None)
    assert [(t.probe, t.fold, len(t.configs)) for t in whole] == [(7, 0, 3), (7, 1, 3)]  # type: ignore[union-attr]
    parts = new_state(1).first_tasks(configs_per_task=2)
    assert [list(t.configs) for t in parts] == [list(GRID[:1]), list(GRID[1:])]  # type: ignore[union-attr]


def test_search_resumes_with_the_missing_scores(new_state: Callable[..., SearchState]) -> None:
    state = new_state()
    (task,) = state.first_tasks(configs_per_task=None)
    assert isinstance(task, SearchTask)
    state.record(task, result(0.1, 0.3))
    assert state.next_tasks() == []
    resumed = new_state()
    (rest,) = resumed.first_tasks(configs_per_task=None)
    assert isinstance(rest, SearchTask)
    assert list(rest.configs) == [{"lr": 0.2}]
    resumed.record(rest, result(0.2))
    (refit,) = resumed.next_tasks()
    assert isinstance(refit, RefitTask)
    assert sorted(score.hparams["lr"] for score in refit.scores) == [0.1, 0.2, 0.3]
    assert refit.search_seconds == 3.0
    assert isinstance(new_state().first_tasks(configs_per_task=None)[0], RefitTask)


def test_search_without_folds_is_a_refit_alone(new_state: Callable[..., SearchState]) -> None:
    (refit,) = new_state(0).first_tasks(configs_per_task=None)
    assert isinstance(refit, RefitTask)
    assert refit.scores == ()


def test_record_counts_a_repeated_score_once(new_state: Callable[..., SearchState]) -> None:
    state = new_state()
    (task,) = state.first_tasks(configs_per_task=None)
    assert isinstance(task, SearchTask)
    state.record(task, result(0.1))
    state.record(task, result(0.1, 0.2, 0.3))
    (refit,) = state.next_tasks()
    assert isinstance(refit, RefitTask)
    assert len(refit.scores) == 3
    assert refit.search_seconds == 1.5
