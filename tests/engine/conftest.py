"""Ray on this machine: a session for a module, and clusters of several node processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from layercache.cache.format import layout
from layercache.engine.ray_engine import LOCAL_CLUSTER_ENV, RAY_ENV
from layercache.extraction import plan
from tests.engine.remote import HOOK, ROOT, backbone


@pytest.fixture(scope="module")
def ray_session() -> Iterator[Any]:
    """Ray with two CPUs, whose workers have the stand-ins."""
    ray = import_ray()
    connect(ray, "local", num_cpus=2, include_dashboard=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def cluster() -> Iterator[Callable[..., Any]]:
    """cluster(cpus, ...) -> a connected Ray cluster: a head without CPUs, a node per argument."""
    ray = import_ray()
    from ray.cluster_utils import Cluster

    made: list[Any] = []

    def make(*cpus: int) -> Any:
        found = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        made.append(found)
        for number in cpus:
            found.add_node(num_cpus=number)
        connect(ray, found.address)
        found.wait_for_nodes()
        return found

    yield make
    ray.shutdown()
    for one in made:
        one.shutdown()


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins in this process."""
    monkeypatch.setattr(layout, "MAX_SHARD_BYTES", 512)
    monkeypatch.setattr(plan, "describe_model", lambda name, **_: None)
    monkeypatch.setattr(plan, "load_encoder", backbone)


def import_ray() -> Any:
    for name, value in (LOCAL_CLUSTER_ENV | RAY_ENV).items():
        os.environ.setdefault(name, value)
    return pytest.importorskip("ray", reason="the extra ray is not installed")


def connect(ray: Any, address: str, **options: Any) -> None:
    environment = {"worker_process_setup_hook": HOOK, "env_vars": {"PYTHONPATH": str(ROOT)}}
    ray.init(
        address,
        runtime_env=environment,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        **options,
    )
