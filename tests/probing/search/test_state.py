from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layercache.probing.heads import HeadSpec
from layercache.probing.results.config_score import ConfigScore
from layercache.probing.results.probe_folder import ProbeFolder
from layercache.probing.results.training_checkpoints import TrainingCheckpoint, TrainingCheckpoints
from layercache.probing.search.state import SearchState
from layercache.probing.search.tasks import RefitTask, SearchResult, SearchTask
from layercache.probing.spec import ProbeSpec
from layercache.probing.splits.train_subset import TrainSubset
from layercache.probing.token_selection import select_tokens
from layercache.probing.training.config import TrainConfig
from tests.logs import logged

GRID = tuple({"lr": lr} for lr in (0.1, 0.2, 0.3))


@pytest.fixture
def new_state(planted: Callable[..., Any], tmp_path: Path) -> Callable[..., SearchState]:
    """new_state(n_folds=, ...): a SearchState of GRID on the same folder each time."""
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

    def make(n_folds: int = 1, search: str = "full", **options: Any) -> SearchState:
        subset = TrainSubset(
            roles=np.zeros((1, 4), np.int8),
            folds_per_repeat=(n_folds,),
            empty_classes=(),
            refit_stop=4,
        )
        folder = ProbeFolder(tmp_path / "probe")
        searched = replace(spec, search=search)
        return SearchState(7, searched, folder=folder, subset=subset, **options)

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


def save_pass(state: SearchState, *lrs: float, fold: int | None = 0, device: str = "cpu") -> None:
    """Save training at step 40 of 100, as a worker does."""
    saved = TrainingCheckpoint(
        probe=state.spec.id,
        fold=fold,
        configs=tuple({"lr": lr} for lr in lrs),
        device=device,
        step=40,
        steps=100,
        seconds=10.0,
    )
    TrainingCheckpoints(state.folder.path).save(saved, {"step": 40})
    state.record_saved(saved)


def test_training_checkpoint_is_continued_by_a_task_of_its_own(
    new_state: Callable[..., SearchState],
) -> None:
    state = new_state()
    assert state.describe_kept() == ""
    save_pass(state, 0.1, 0.3)
    resumed = new_state()
    first, rest = resumed.first_tasks(configs_per_task=None)
    assert isinstance(first, SearchTask)
    assert isinstance(rest, SearchTask)
    assert (list(first.configs), first.saved is not None) == ([{"lr": 0.1}, {"lr": 0.3}], True)
    assert (list(rest.configs), rest.saved) == ([{"lr": 0.2}], None)
    assert resumed.describe_kept() == "2 configurations are saved at step 40 of 100"
    resumed.record(rest, result(0.2))
    assert resumed.describe_kept() == (
        "1 of 3 configurations are scored, 2 configurations are saved at step 40 of 100"
    )
    resumed.record(first, result(0.1, 0.3))
    assert resumed.describe_kept() == "3 of 3 configurations are scored"
    assert TrainingCheckpoints(resumed.folder.path).all() == [], "deleted once the scores are kept"
    (refit,) = resumed.next_tasks()
    assert isinstance(refit, RefitTask)
    assert refit.search_seconds == 10.0 + 1.5 + 1.5


def test_saved_final_fit_counts_the_time_that_it_took(
    new_state: Callable[..., SearchState],
) -> None:
    state = new_state()
    (task,) = state.first_tasks(configs_per_task=None)
    assert isinstance(task, SearchTask)
    state.record(task, result(0.1, 0.2, 0.3))
    save_pass(state, 0.2, fold=None)
    resumed = new_state()
    assert resumed.describe_kept() == (
        "3 of 3 configurations are scored, the final fit is saved at step 40 of 100"
    )
    (refit,) = resumed.first_tasks(configs_per_task=None)
    assert isinstance(refit, RefitTask)
    assert refit.search_seconds == 11.5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"configs_per_pass": 1}, "configs_per_pass is 1"),
        ({"device": "cuda:0"}, "it trained on cpu, this run on cuda:0"),
    ],
)
def test_training_checkpoint_that_this_run_cannot_continue_is_trained_again_with_a_warning(
    new_state: Callable[..., SearchState], options: dict[str, Any], reason: str
) -> None:
    save_pass(new_state(), 0.1, 0.3)
    with logged() as lines:
        state = new_state(**options)
    assert lines == [
        "2 configurations that were saved at step 40 of 100 train again from the start: " + reason
    ]
    (task,) = state.first_tasks(configs_per_task=None)
    assert isinstance(task, SearchTask)
    assert (list(task.configs), task.saved) == (list(GRID), None)


def test_halving_goes_from_rung_to_rung_and_resumes_within_one(
    new_state: Callable[..., SearchState], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SearchState, "_epochs", lambda self: 90)

    def scored(state: SearchState, task: Any, *lrs: float) -> None:
        scores = [
            ConfigScore(
                hparams={"lr": lr},
                fold=0,
                val_metrics={"balanced_accuracy": lr, "log_loss": 1.0},
                stop_epoch=task.stop_epoch,
            )
            for lr in lrs
        ]
        state.record(task, SearchResult(scores=scores, seconds=1.0))

    state = new_state(search="halving")
    (task,) = state.first_tasks(configs_per_task=None)
    assert isinstance(task, SearchTask)
    assert (len(task.configs), task.stop_epoch) == (3, 10)
    assert state.work_left(task) == pytest.approx((2 * 10 + 90) / (3 * 10))
    scored(state, task, 0.1, 0.3)
    assert state.next_tasks() == []
    resumed = new_state(search="halving")
    assert resumed.describe_kept() == "2 of 3 configurations are scored after epoch 10"
    (rest,) = resumed.first_tasks(configs_per_task=None)
    assert isinstance(rest, SearchTask)
    assert list(rest.configs) == [{"lr": 0.2}]
    scored(resumed, rest, 0.2)
    (last,) = resumed.next_tasks()
    assert isinstance(last, SearchTask)
    assert (list(last.configs), last.stop_epoch) == ([{"lr": 0.3}], None)
    assert resumed.describe_best() == (
        "best validation balanced accuracy 30.00 % after epoch 10, 1 of 3 configurations racing"
    )
    assert resumed.next_tasks() == [], "issued once"
    scored(resumed, last, 0.3)
    (refit,) = resumed.next_tasks()
    assert isinstance(refit, RefitTask)
    assert len(refit.scores) == 4
    assert resumed.next_tasks() == []
