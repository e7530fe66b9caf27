"""A Ray session on this machine: the same bytes, rows and errors as the local engine."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layercache.cache.find import open_cache
from layercache.cache.verify import verify
from layercache.engine import Progress, open_engine
from layercache.engine.local import LocalEngine
from layercache.engine.ray_actor import Actor
from layercache.engine.ray_engine import RayEngine
from layercache.errors import (
    BackboneError,
    DataError,
    DataNotFoundError,
    OptionError,
    UnknownNameError,
    WorkerError,
)
from layercache.extraction import plan
from layercache.extraction.api import extract
from layercache.probing.api import probe
from layercache.probing.training.config import TrainConfig
from tests.engine.remote import Hidden
from tests.extraction.fakes import FakeBackbone, Pictures, dataset, tree
from tests.logs import logged

pytestmark = [
    pytest.mark.usefixtures("ray_session", "fakes"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning:ray.*"),
]
BROKEN = {"train": Pictures(203, broken=frozenset({150})), "test": Pictures(40, first=1000)}


class Squares:
    """Gives the square of a task; logs where it is; raises for a negative one."""

    def __init__(self, emit: Callable[[Any], None], cores: int | None) -> None:
        self.emit, self.cores = emit, cores
        logging.getLogger("layercache.tests").info(f"a worker of {cores} cores (number {id(self)})")

    def __call__(self, task: int) -> int:
        for step in range(3):
            self.emit(Progress(step + 1, 3))
        if task < 0:
            raise UnknownNameError("square", str(task), ["1", "2"])
        return task * task

    def close(self) -> None:
        pass


class Broken(Actor):
    """An Actor that cannot be made."""

    def __init__(self, cores: int) -> None:
        raise ModuleNotFoundError("No module named 'layercache'")


def run(cache: Path, *, engine: str = "ray", **options: Any) -> Any:
    given = {
        "models": ["fake"],
        "dataset": dataset(),
        "cache": cache,
        "batch_size": 5,
        "workers": 0,
    }
    return extract(progress=False, engine=engine, **(given | options))


@pytest.mark.parametrize("engine", [LocalEngine(), "ray"])
def test_tasks_give_their_results_messages_and_faults(engine: Any) -> None:
    heard = []
    with logged() as said, open_engine("ray") as ray:
        chosen = ray if engine == "ray" else engine
        with chosen.pool(
            Squares,
            gpu=False,
            threads=1,
            on_message=lambda task, message: heard.append((task, message)),
        ) as crew:
            tasks, found = deque(range(5)), {}
            for task, result in crew.run(tasks):
                found[task] = result
                if task == 3:
                    tasks.append(9)
            assert found == {n: n * n for n in (0, 1, 2, 3, 4, 9)}
            assert not tasks
            with pytest.raises(UnknownNameError, match=r"^unknown square '-1': did you mean 1\?$"):
                list(crew.run(deque([-1])))
    assert (4, Progress(3, 3)) in heard
    assert sum(line.startswith("a worker of") for line in said) == 1


def test_a_session_that_is_there_is_used_and_left(ray_session: Any) -> None:
    with open_engine("ray") as engine:
        assert isinstance(engine, RayEngine)
        assert len(engine.nodes()) == 1
    assert ray_session.is_initialized()


def test_extraction_gives_the_bytes_of_one_machine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="layercache")
    options = {
        "models": ["a", "b"],
        "dataset": dataset({"train": Pictures(403), "test": Pictures(20, first=1000)}),
    }
    local = run(tmp_path / "local", engine="local", **options)
    spread = run(tmp_path / "ray", **options)
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
    assert "2 workers of 1 CPU on a Ray cluster of 1 node" in caplog.messages
    assert [(e.images, e.rows, e.workers) for e in spread] == [(423, 423, 2)] * 2
    assert [e.images for e in local] == [423, 423]
    assert "by 2 workers" in spread[0].summary()
    again = run(tmp_path / "ray", **options)
    assert all(e.was_complete for e in again)


@pytest.mark.slow
@pytest.mark.alone
def test_a_run_that_was_begun_on_one_engine_is_continued_on_the_other(tmp_path: Path) -> None:
    run(
        tmp_path / "whole",
        engine="local",
        dataset=dataset({"train": Pictures(203), "test": Pictures(40, first=1000)}),
    )
    for first, second in (("local", "ray"), ("ray", "local")):
        cache = tmp_path / first
        with pytest.raises(DataError):
            run(cache, engine=first, dataset=dataset(BROKEN))
        there = len(list(cache.rglob("commits/train/0*.json")))
        assert 0 < there < 26
        (done,) = run(
            cache,
            engine=second,
            dataset=dataset({"train": Pictures(203), "test": Pictures(40, first=1000)}),
        )
        assert done.images < 243
        assert tree(cache) == tree(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.alone
def test_an_image_that_cannot_be_decoded_ends_the_run_with_its_id_or_is_listed(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataError) as here:
        run(tmp_path / "local", engine="local", dataset=dataset(BROKEN))
    with pytest.raises(DataError) as there:
        run(tmp_path / "ray", dataset=dataset(BROKEN))
    assert type(there.value) is DataError
    assert str(there.value) == str(here.value)
    assert "sample 'pic/0150' cannot be decoded" in str(there.value)
    for engine in ("local", "ray"):
        run(tmp_path / engine, engine=engine, dataset=dataset(BROKEN), on_error="skip")
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
    cache = open_cache(root=tmp_path / "ray")
    assert list(cache.split("train").skipped) == ["pic/0150"]
    assert not verify(cache)


@pytest.mark.slow
@pytest.mark.alone
def test_a_machine_with_other_weights_or_without_the_images_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            plan,
            "load_encoder",
            lambda name, **_: FakeBackbone(name=name, weights_digest="c" * 64),
        )
        with pytest.raises(
            BackboneError,
            match=r"^the worker on .* loads other weights for fake: "
            r"expected SHA-256 cccccccccccc, got ffffffffffff: give",
        ):
            run(tmp_path)
    samples = dataset({"train": Hidden(30, pid=os.getpid())})
    with pytest.raises(
        DataNotFoundError,
        match=r"^the worker on .* does not see the images of split 'train': "
        r"sample 'pic/0000' .*the same place",
    ):
        run(tmp_path, dataset=samples)
    assert not list(tmp_path.rglob("c.0.0.*"))
    run(tmp_path, engine="local", dataset=samples)


def rows(results: Any) -> list[dict[str, Any]]:
    return [{**probe.row, "train_seconds": 0} for probe in results]


@pytest.mark.slow
@pytest.mark.alone
def test_probes_give_the_rows_and_logits_of_one_machine(
    planted: Callable[..., Any], tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "head": ["attentive", "knn"],
        "layers": ["last", "all"],
        "lr": [0.03, 0.01, 0.003],
        "weight_decay": 1e-4,
        "dropout": 0.1,
        "shots": 3,
        "train_config": TrainConfig(epochs=3, min_steps=0, min_batches=3),
    }
    here = probe(planted(root=tmp_path / "a"), configs_per_pass=2, **options)
    with logged() as said:
        there = probe(planted(root=tmp_path / "b"), configs_per_pass=2, engine="ray", **options)
    assert rows(there) == rows(here)
    assert here.probes[0].row["n_folds"] > 1
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one.predictions().logits, other.predictions().logits)
        assert one.configs == other.configs
        assert sorted(p.name for p in one.path.iterdir()) == sorted(
            p.name for p in other.path.iterdir()
        )
    assert "3 configurations train in 2 groups of at most 2 (as requested)" in said
    assert len(set(said)) == len(said)
    differently = probe(planted(root=tmp_path / "c", seed=1), configs_per_pass=2, **options)
    assert rows(differently) != rows(here)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"engine": "rya"}, UnknownNameError, "unknown engine 'rya': did you mean ray"),
        (
            {"engine": "local", "ray_address": "auto"},
            OptionError,
            "address 'auto': .* needs --engine ray",
        ),
    ],
)
def test_a_wrong_engine_is_refused(
    tmp_path: Path,
    planted: Callable[..., Any],
    options: dict[str, Any],
    error: type[Exception],
    text: str,
) -> None:
    with pytest.raises(error, match=text):
        run(tmp_path, **options)
    with pytest.raises(error, match=text):
        probe(planted(), **options)


def test_a_machine_that_cannot_begin_a_worker_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layercache.engine.ray_pool.Actor", Broken)
    text = (
        "a worker cannot start on a machine of the cluster: .*No module named 'layercache'"
        ".* needs the same Python and the same layercache"
    )
    with (
        pytest.raises(WorkerError, match=text),
        open_engine("ray") as engine,
        engine.pool(Squares, gpu=False, threads=1, on_message=lambda *_: None) as crew,
    ):
        list(crew.run(deque([1])))
