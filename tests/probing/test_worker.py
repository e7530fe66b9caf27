from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from layercache.engine import Progress
from layercache.probing.heads import HeadSpec
from layercache.probing.results.probe_store import PROBES, read_probe
from layercache.probing.search.tasks import RefitTask, SearchResult, SearchTask
from layercache.probing.spec import ProbeSpec
from layercache.probing.splits.train_subset import sample_subset
from layercache.probing.token_selection import select_tokens
from layercache.probing.worker import ProbeWorker, WorkerConfig
from tests.probing.quick import QUICK

GRID = tuple({"lr": lr, "weight_decay": 0.0, "dropout": 0.0} for lr in (0.03, 0.01, 0.003))


@pytest.fixture
def spec(planted: Callable[..., Any]) -> ProbeSpec:
    """A linear probe of three configurations on all layers."""
    tokens = select_tokens(planted(), head="linear", layers="all", tokens="cls+ap")
    return ProbeSpec(
        tokens=tokens,
        head="linear",
        head_spec=HeadSpec(kind="linear", tokens=8, width=8, classes=3),
        grid=GRID,
        seed=0,
        shots=None,
        train_fraction=None,
        train_config=QUICK,
        precision="fp32",
    )


def new_worker(spec: ProbeSpec, messages: list[Any], *, configs_per_pass: int = 2) -> ProbeWorker:
    config = WorkerConfig(
        folders=[spec.tokens.cache.path / "probes" / spec.id],
        specs=[spec],
        device="cpu",
        features="auto",
        memory_budget=None,
        disk_cache=None,
        configs_per_pass=configs_per_pass,
    )
    return config(messages.append, None)


def search_task(spec: ProbeSpec) -> SearchTask:
    subset = sample_subset(spec, spec.tokens.cache.split("train"))
    return SearchTask(probe=0, subset=subset, fold=0, configs=GRID)


def test_worker_emits_the_scores_of_each_pass_and_returns_all(spec: ProbeSpec) -> None:
    messages: list[Any] = []
    result = new_worker(spec, messages)(search_task(spec))
    assert result is not None
    assert [score.hparams for score in result.scores] == list(GRID)
    passes = [message for message in messages if isinstance(message, SearchResult)]
    assert [len(part.scores) for part in passes] in ([1, 2], [2, 1])
    assert [score for part in passes for score in part.scores] == list(result.scores)
    progress = [message for message in messages if isinstance(message, Progress)]
    assert progress[-1].done == progress[-1].total


def test_worker_scores_do_not_depend_on_the_passes(spec: ProbeSpec) -> None:
    whole, parts = (
        new_worker(spec, [], configs_per_pass=size)(search_task(spec)) for size in (3, 1)
    )
    assert whole is not None
    assert parts is not None
    for one, other in zip(whole.scores, parts.scores, strict=True):
        assert one.val_metrics == pytest.approx(other.val_metrics)
        assert (one.configs_per_pass, other.configs_per_pass) == (3, 1)


def test_worker_refits_the_best_configuration_and_writes_the_probe(spec: ProbeSpec) -> None:
    messages: list[Any] = []
    worker = new_worker(spec, messages)
    task = search_task(spec)
    result = worker(task)
    assert result is not None
    refit = RefitTask(probe=0, subset=task.subset, scores=result.scores, search_seconds=100.0)
    written = worker(refit)
    probe = read_probe(spec.tokens.cache.path / PROBES / spec.id)
    assert probe is not None
    assert probe.sha256 == written
    best = max(result.scores, key=lambda score: (score.val_metrics or {})["balanced_accuracy"])
    assert probe.head().hparams == best.hparams
    assert probe.row["train_seconds"] > 100
    assert (probe.row["train_rows"], probe.row["n_configs"]) == (240, 3)


def test_worker_loads_the_tokens_of_one_probe_once(
    spec: ProbeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layercache.cache.reading.split import Split

    reads: list[str] = []
    read = Split.read_stored
    monkeypatch.setattr(
        Split, "read_stored", lambda self, *a, **k: reads.append(self.name) or read(self, *a, **k)
    )
    worker = new_worker(spec, [])
    for _ in range(2):
        worker(search_task(spec))
    assert reads == ["train"]


def test_task_carries_one_byte_per_row_of_the_split(spec: ProbeSpec) -> None:
    assert search_task(spec).subset.roles.dtype == np.int8
