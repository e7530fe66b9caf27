from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from layercache.errors import (
    CacheIncompleteError,
)
from layercache.probing.api import probe
from layercache.probing.results.probe_folder import ProbeFolder
from layercache.probing.results.probe_store import read_probe
from layercache.probing.training import trainer
from layercache.probing.training.training_pass import TrainingPass
from tests.cache.folders import tree
from tests.logs import logged
from tests.probing.quick import ONE_CONFIG


def test_run_probes_reads_an_existing_probe_and_refresh_trains_it_again(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = planted()
    (first,) = probe(cache, head="linear", **ONE_CONFIG)
    fit = trainer.fit
    calls: list[int] = []
    monkeypatch.setattr(trainer, "fit", lambda *a, **k: calls.append(1) or fit(*a, **k))
    with logged() as lines:
        (again,) = probe(cache, head="linear", **ONE_CONFIG)
    assert not calls
    assert again.row == first.row
    assert "already exists" in lines[0]
    (anew,) = probe(cache, head="linear", refresh=True, **ONE_CONFIG)
    assert len(calls) == 2
    assert {**anew.row, "train_seconds": 0} == {**first.row, "train_seconds": 0}, (
        "the same seed on the same device gives the same row"
    )
    (other,) = probe(cache, head="linear", **{**ONE_CONFIG, "lr": 0.02})
    assert other.id != first.id


def test_run_probes_after_a_kill_resumes_the_search(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = planted()
    options = {**ONE_CONFIG, "lr": [0.03, 0.01, 0.003], "configs_per_pass": 1}
    (whole,) = probe(cache, head="linear", **options)
    run = TrainingPass.run
    trained: list[float] = []

    def dying(self: TrainingPass, **kwargs: Any) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(self.configs[0].lr)
        return run(self, **kwargs)

    monkeypatch.setattr(TrainingPass, "run", dying)
    with pytest.raises(KeyboardInterrupt):
        probe(cache, head="linear", refresh=True, **options)
    assert trained == [0.03, 0.01]
    assert read_probe(whole.path).row == whole.row, "the old probe stays until the new one is there"
    after: list[tuple[float, bool]] = []
    monkeypatch.setattr(
        TrainingPass,
        "run",
        lambda self, **k: after.append((self.configs[0].lr, self._val is None)) or run(self, **k),
    )
    (continued,) = probe(cache, head="linear", refresh=True, **options)
    assert after == [(0.003, False), (whole.row["lr"], True)], (
        "only what was missing, then the final fit"
    )
    assert {**continued.row, "train_seconds": 0} == {**whole.row, "train_seconds": 0}
    assert sorted(p.name for p in continued.path.iterdir()) == [
        ".lock",
        "curves.npz",
        "head.safetensors",
        "predictions.npz",
        "probe.json",
    ]


def test_run_probes_killed_before_the_refit_does_not_search_again(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, events = planted(), []
    train, score = trainer.SGDTrainer.train, trainer.SGDTrainer.score

    def dying(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.SGDTrainer, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        probe(cache, head="linear", **ONE_CONFIG)
    monkeypatch.setattr(
        trainer.SGDTrainer, "train", lambda *a, **k: events.append("train") or train(*a, **k)
    )
    monkeypatch.setattr(
        trainer.SGDTrainer, "score", lambda *a, **k: events.append("score") or score(*a, **k)
    )
    probe(cache, head="linear", **ONE_CONFIG)
    assert events == ["train"]


def test_run_probes_of_an_incomplete_cache_raises_before_any_work(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "fit", lambda *a, **k: pytest.fail("nothing may be trained"))
    with pytest.raises(CacheIncompleteError, match="run the same extraction again"):
        probe(planted(finish=False), head="linear", **ONE_CONFIG)


def test_run_probes_with_refresh_keeps_the_old_probe_until_the_new_one_is_written(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = planted()
    (old,) = probe(cache, head="linear", **ONE_CONFIG)
    before = tree(old.path)
    train = trainer.SGDTrainer.train

    def look(*args: Any, **kwargs: Any) -> Any:
        now = {name: data for name, data in tree(old.path).items() if name in before}
        assert {**now, ".lock": b""} == before
        return train(*args, **kwargs)

    monkeypatch.setattr(trainer.SGDTrainer, "train", look)
    (new,) = probe(cache, head="linear", refresh=True, **ONE_CONFIG)
    assert set(tree(new.path)) == set(before)
    assert new.sha256 != old.sha256 or new.row == old.row
    new.head()
    new.predictions()


def test_run_probes_removes_what_killed_runs_left_of_a_complete_probe(
    planted: Callable[..., Any],
) -> None:
    cache = planted()
    (whole,) = probe(cache, head="knn", device="cpu")
    before = tree(whole.path)
    litter = [
        "search.json",
        "partial/half",
        "training/0123456789abcdef",
        f"predictions.npz.{'0' * 12}",
    ]
    for name in litter:
        (whole.path / name).parent.mkdir(exist_ok=True)
        (whole.path / name).write_bytes(b"?")
    with ProbeFolder(whole.path).locked():
        (whole.path / "partial").mkdir(exist_ok=True)
        probe(cache, head="knn", device="cpu")  # another process may be writing: nothing is done
        assert (whole.path / "search.json").exists()
    probe(cache, head="knn", device="cpu")
    assert tree(whole.path) == before
    assert sorted(p.name for p in whole.path.iterdir()) == sorted(before)


def test_run_probes_with_another_group_size_selects_the_same_configuration_and_records_it(
    planted: Callable[..., Any],
) -> None:
    cache = planted()
    options = {**ONE_CONFIG, "lr": [0.03, 0.001], "dropout": [0.0, 0.3], "epochs": 4}
    probes = [
        probe(cache, head="attentive", refresh=True, configs_per_pass=size, **options).probes[0]
        for size in (4, 3)
    ]
    selected = [[p.row[name] for name in ("lr", "weight_decay", "dropout")] for p in probes]
    assert selected[0] == selected[1]
    assert [p.row["configs_per_pass"] for p in probes] == [4, 2]
    assert [{config.configs_per_pass for config in p.configs} for p in probes] == [{4}, {2}]
    for one, other in zip(probes[0].configs, probes[1].configs, strict=True):
        assert one.val_metrics == pytest.approx(other.val_metrics, abs=0.03)
