"""Which engine there is, without one of them."""

from __future__ import annotations

import logging
import sys
from collections import deque
from typing import Any

import pytest

from layercache.engine import Progress, open_engine
from layercache.errors import MissingExtraError, OptionError, UnknownNameError, WorkerError
from layercache.extraction.options import ExtractOptions
from layercache.probing.options import Options
from layercache.study.file import parse_study
from tests.logs import logged

STUDY = 'models = ["vit_nano"]\ndatasets = ["digits"]\n{}\n[[heads]]\nhead = "linear"\n'


def test_open_engine_without_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(
            MissingExtraError,
            match=r"this needs ray, which is not installed: pip install -e '\.\[ray\]'",
        ),
        open_engine("ray"),
    ):
        pass


def test_open_engine_at_the_address_of_a_killed_cluster_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # as auto finds it in Ray's own file
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with (
        pytest.raises(WorkerError, match=r"cannot join a Ray cluster at auto: .*refused"),
        open_engine("ray", ray_address="auto"),
    ):
        pass


@pytest.mark.parametrize(
    "make", [lambda **o: ExtractOptions(models=["m"], dataset="d", **o), lambda **o: Options(**o)]
)
def test_engine_unknown_raises_before_any_work(make: Any) -> None:
    with pytest.raises(UnknownNameError, match="unknown engine 'rya': did you mean ray"):
        make(engine="rya")
    with pytest.raises(
        OptionError,
        match=r"address 'auto': it is the address of a Ray cluster, so it needs --engine ray",
    ):
        make(ray_address="auto")
    assert make(engine="ray", ray_address="auto").ray_address == "auto"


def test_parse_study_engine_and_address_are_read() -> None:
    assert parse_study(STUDY.format(""), where="s", name="s").engine == "local"
    study = parse_study(
        STUDY.format('engine = "ray"\naddress = "10.0.0.1:6379"'), where="s", name="s"
    )
    assert (study.engine, study.ray_address) == ("ray", "10.0.0.1:6379")
    with pytest.raises(OptionError, match=r"s\.toml: unknown engine 'rya': did you mean ray"):
        parse_study(STUDY.format('engine = "rya"'), where="s.toml", name="s")
    with pytest.raises(OptionError, match=r"s\.toml: address '1:2': .* needs --engine ray"):
        parse_study(STUDY.format('address = "1:2"'), where="s.toml", name="s")


class Echo:
    """Returns its tasks; closes."""

    closed = False

    def __init__(self, emit: Any) -> None:
        self.emit = emit
        logging.getLogger("layercache.tests").info("made")

    def __call__(self, task: int) -> int:
        self.emit(Progress(1, 2))
        if task == 3:
            raise DeprecationWarning("three")
        return task

    def close(self) -> None:
        self.closed = True


def test_local_pool_runs_tasks_in_order_and_closes_its_worker() -> None:
    heard: list[Any] = []
    made: list[Echo] = []

    def make(emit: Any, cores: int | None) -> Echo:
        assert cores is None
        made.append(Echo(emit))
        return made[-1]

    def listen(task: Any, message: Any) -> None:
        heard.append((task, message))

    with (
        open_engine("local") as engine,
        logged() as said,
        engine.pool(make, gpu=False, threads=1, on_message=listen) as crew,
    ):
        tasks, done = deque([2, 1]), []
        for task, result in crew.run(tasks):
            done.append((task, result))
            if task == 2:
                tasks.append(7)
        assert done == [(2, 2), (1, 1), (7, 7)]
        assert (said, heard) == (["made"], [(n, Progress(1, 2)) for n in (2, 1, 7)])
        with pytest.raises(DeprecationWarning, match="three"):
            list(crew.run(deque([3])))
        assert not made[0].closed
    assert made[0].closed
