"""The engine that is a Ray cluster: one that is running, or one of this machine alone for as long as it is needed.

Ray places workers, spreads them over the nodes, restarts those that are lost and repeats their tasks; nothing of that is done here.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from layercache.engine.base import MessageHandler, Say, WorkerFactory
from layercache.engine.ray_pool import RayPool
from layercache.errors import MissingExtraError, OptionError, WorkerError

QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"
}  # what the next Ray does anyhow, without a warning
"""Of every session."""
ALONE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a cluster of this machine alone listens on the loopback address, on every system
}
"""Of a cluster that we start."""
REACHED_WITHIN = 10.0
"""Seconds; Ray itself would wait for minutes, and for ever where there is a machine and no Ray."""
PASSED_ON = ("LAYERCACHE_DATA", "LAYERCACHE_HOME")
"""Variables that workers see as this process does. Credentials are a matter of each node."""


@dataclass(frozen=True)
class Resources:
    """What a worker asks for."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        """For people."""
        return f"{self.cpus} CPU{'s' * (self.cpus != 1)}" + (
            f" and {self.gpus} GPU" if self.gpus else ""
        )


@contextmanager
def session(address: str | None) -> Iterator[RayEngine]:
    """Within a session that this process has already, that one; else one that ends with the context."""
    for name, value in (QUIET | (ALONE if address is None else {})).items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray") from None

    if ray.is_initialized():
        yield RayEngine(ray)
        return
    with _own_signals():
        try:
            _hush(ray)
            _reach(address)
            ray.init(
                address or "local",
                include_dashboard=False if address is None else None,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
        except OptionError:
            raise
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            what = (
                "no Ray cluster could be started here"
                if address is None
                else f"there is no Ray cluster at {address} to join"
            )
            raise WorkerError(
                f"{what}: {(str(error).splitlines() or ['no reason given'])[0]}"
            ) from None
    try:
        yield RayEngine(ray)
    finally:
        ray.shutdown()


class RayEngine:
    """The cluster that this process is connected to."""

    spreads = True

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def gpu(self, device: str) -> bool | None:
        """For "auto" where the cluster has any."""
        return device.startswith("cuda") or (
            device == "auto" and any(node.get("GPU") for node in self.nodes())
        )

    def nodes(self) -> list[dict[str, float]]:
        """Resources of every node that is up."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def needs(self, *, gpu: bool, threads: int) -> Resources:
        """On a CPU as many cores as it computes with; beside a GPU its share of the node's, to decode with."""
        if not gpu:
            return Resources(
                max(
                    1,
                    min(
                        threads, max((int(node.get("CPU", 0)) for node in self.nodes()), default=1)
                    ),
                ),
                0,
            )
        shares = [
            int(node.get("CPU", 1) // node["GPU"]) for node in self.nodes() if node.get("GPU")
        ]
        return Resources(max(1, min(shares, default=1)), 1)

    @contextmanager
    def crew(
        self, make: WorkerFactory, *, gpu: bool, threads: int, say: Say, heard: MessageHandler
    ) -> Iterator[RayPool]:
        """As many workers as the cluster has room for, made as tasks ask for them; they end with the context."""
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        crew = RayPool(
            self,
            make,
            needs=self.needs(gpu=gpu, threads=threads),
            environment=environment,
            say=say,
            heard=heard,
        )
        try:
            yield crew
        finally:
            crew.dismiss()


def _reach(address: str | None) -> None:
    """Raises OptionError, or OSError where nobody answers at the address."""
    if address in (None, "auto"):
        return
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit()) or "/" in host:
        raise OptionError(
            f"address {address!r}: expected auto or HOST:PORT, as `ray start` prints it, on a machine of the cluster"
        )
    socket.create_connection((host, int(port)), timeout=REACHED_WITHIN).close()


def _hush(ray: Any) -> None:
    """What Ray prints of nodes and tasks that it repeats goes to the log: where it ends in a fault, that is told, and else it is none."""
    log = logging.getLogger(__name__)
    with suppress(AttributeError):  # not a public name: another Ray may have none, and print
        ray._private.worker.print_to_stdstream = lambda data, *_, **__: log.debug("%s", data)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it connects; what was there before takes it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(TypeError):  # None: a handler that was not set by Python
            signal.signal(signal.SIGTERM, before)
