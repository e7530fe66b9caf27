"""Lost processes and nodes during a job, on real Ray clusters of several node processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layercache.cache.find import open_cache
from layercache.cache.verify import verify
from layercache.engine import ray_pool
from layercache.errors import WorkerError
from layercache.extraction.api import extract
from layercache.probing.api import probe
from layercache.probing.training.config import TrainConfig
from tests.engine.remote import Slow, Striking
from tests.extraction.fakes import Pictures, dataset, tree

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.usefixtures("fakes")]
ROWS = 800
TEST = Pictures(40, first=1000)
Make = Callable[..., Any]


def run(cache: Path, train: Any, *, engine: str = "ray") -> Any:
    (done,) = extract(
        models=["fake"],
        dataset=dataset({"train": train, "test": TEST}),
        cache=cache,
        batch_size=4,
        workers=0,
        engine=engine,
        progress=False,
    )
    return done


def committed(cache: Path) -> int:
    return len(list(cache.rglob("commits/*/0*.json")))


def whole(cache: Path, reference: Path) -> None:
    """The cache has the bytes of a run on one machine, nothing more and nothing less."""
    run(reference, Pictures(ROWS), engine="local")
    assert not verify(open_cache(root=cache))
    assert tree(cache) == tree(reference)


@contextmanager
def meanwhile(cache: Path, blocks: int, strike: Callable[[], object]) -> Iterator[list[int]]:
    """Call `strike` in a thread once so many row blocks are committed; yield their number."""
    struck: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if (there := committed(cache)) >= blocks:
                struck.append(there)
                strike()
                return
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield struck
    finally:
        over.set()
        thread.join()


def actors() -> list[int]:
    """Process ids of the workers on this machine."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::Actor"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_a_worker_that_is_killed_at_an_image_is_replaced(cluster: Make, tmp_path: Path) -> None:
    cluster(1, 1)
    mark = tmp_path / "struck"
    run(tmp_path / "cache", Striking(ROWS, strikes=301, mark=str(mark), seconds=0.001))
    assert mark.exists()
    whole(tmp_path / "cache", tmp_path / "reference")


def test_workers_that_are_killed_at_any_moment_are_replaced(cluster: Make, tmp_path: Path) -> None:
    cluster(1, 1)
    cache = tmp_path / "cache"
    killed: list[int] = []

    def strike() -> None:
        for pid in actors():
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    with meanwhile(cache, 20, strike) as struck:
        run(cache, Slow(ROWS, seconds=0.005))
    assert struck[0] < 105
    assert killed
    whole(cache, tmp_path / "reference")


def test_a_node_that_goes_is_done_without(cluster: Make, tmp_path: Path) -> None:
    made = cluster(1, 1)
    cache = tmp_path / "cache"
    nodes = sorted(made.worker_nodes, key=lambda node: node.node_id)
    with meanwhile(cache, 20, lambda: made.remove_node(nodes[0], allow_graceful=False)) as struck:
        run(cache, Slow(ROWS, seconds=0.005))
    assert struck[0] < 105
    whole(cache, tmp_path / "reference")


def test_without_any_node_the_job_ends_and_is_continued(
    cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pool, "NO_WORKER_TIMEOUT_S", 3.0)
    made = cluster(1)
    cache = tmp_path / "cache"
    (node,) = made.worker_nodes
    began = time.monotonic()
    with (
        meanwhile(cache, 20, lambda: made.remove_node(node, allow_graceful=False)),
        pytest.raises(
            WorkerError,
            match=r"^no node of the Ray cluster has had room for a worker \(1 CPU\) for 3 s"
            r".* the same command continues",
        ),
    ):
        run(cache, Slow(ROWS, seconds=0.005))
    assert time.monotonic() - began < 90
    there = committed(cache)
    assert 20 <= there < 105
    made.add_node(num_cpus=1)
    done = run(cache, Slow(ROWS, seconds=0.001))
    assert done.images <= 840 - 8 * (there - 5)
    whole(cache, tmp_path / "reference")


def test_a_task_that_kills_every_worker_ends_the_job_and_names_itself(
    cluster: Make, tmp_path: Path
) -> None:
    cluster(1, 1)
    samples = Striking(ROWS, strikes=301, mark=str(tmp_path / "struck"), always=True, seconds=0.001)
    with pytest.raises(
        WorkerError,
        match=r"^a worker was lost 4 times at row blocks \d+ to \d+ of split 'train', "
        r".* the same command continues",
    ):
        run(tmp_path / "cache", samples)
    assert committed(tmp_path / "cache") > 0
    run(tmp_path / "cache", Pictures(ROWS))
    whole(tmp_path / "cache", tmp_path / "reference")


def test_a_probe_survives_its_workers(cluster: Make, planted: Make, tmp_path: Path) -> None:
    cluster(1, 1)
    options: dict[str, Any] = {
        "head": "attentive",
        "lr": [0.03, 0.01, 0.003, 0.001],
        "weight_decay": 1e-4,
        "dropout": 0.0,
        "configs_per_pass": 1,
    }
    options["train_config"] = TrainConfig(epochs=60, min_steps=0, min_batches=30)
    cache = planted(root=tmp_path / "ray")
    killed: list[int] = []

    def strike() -> None:
        for pid in actors():
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if list(cache.path.rglob("search.json")):
                strike()
                return
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        (there,) = probe(cache, engine="ray", **options)
    finally:
        over.set()
        thread.join()
    assert killed
    (here,) = probe(planted(root=tmp_path / "local"), **options)
    assert {**there.row, "train_seconds": 0} == {**here.row, "train_seconds": 0}
    assert np.array_equal(there.predictions().logits, here.predictions().logits)
    assert sorted(p.name for p in there.path.iterdir()) == sorted(
        p.name for p in here.path.iterdir()
    )
