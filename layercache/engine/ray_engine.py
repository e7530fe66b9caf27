"""Runs tasks on a Ray cluster: a running one, or a temporary one on this machine.

Ray places workers, spreads them over the nodes, restarts lost ones and repeats their tasks; none of
that is done here.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from layercache.engine.base import MessageHandler, WorkerFactory
from layercache.engine.ray_pool import Node, RayPool, Resources
from layercache.errors import MissingExtraError, OptionError, WorkerError

logger = logging.getLogger(__name__)

RAY_ENV = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Environment of every session: the default of the next Ray, set so that this one does not warn."""
LOCAL_CLUSTER_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on the loopback address on every system
}
"""Environment of a cluster that this process starts."""
CONNECT_TIMEOUT_S = 10.0
"""Seconds to reach an address; Ray itself waits for minutes, or forever if no Ray runs there."""
FORWARDED_ENV = ("LAYERCACHE_DATA", "LAYERCACHE_HOME")
"""Environment variables that workers inherit. Credentials are each node's own."""


@contextmanager
def session(ray_address: str | None) -> Iterator[RayEngine]:
    """Connect to a cluster within the context; reuse and keep a connection of this process.

    Args:
        ray_address: "auto", HOST:PORT, or None to start a cluster on this machine.

    Raises:
        MissingExtraError: Ray is not installed.
        OptionError: The address has another form.
        WorkerError: No cluster answers, or none can be started.
    """
    env = RAY_ENV if ray_address is not None else RAY_ENV | LOCAL_CLUSTER_ENV
    for name, value in env.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray") from None

    if ray.is_initialized():
        yield RayEngine(ray)
        return
    with _keep_signal_handlers():
        try:
            _silence(ray)
            _check_reachable(ray_address)
            ray.init(
                ray_address or "local",
                include_dashboard=False if ray_address is None else None,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
        except OptionError:
            raise
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            problem = (
                "cannot start a Ray cluster on this machine"
                if ray_address is None
                else f"cannot join a Ray cluster at {ray_address}"
            )
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise WorkerError(f"{problem}: {reason}") from None
    try:
        yield RayEngine(ray)
    finally:
        ray.shutdown()


class RayEngine:
    """The Ray cluster that this process is connected to."""

    distributed = True

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def has_gpu(self, device: str) -> bool | None:
        """Return True for "cuda", and for "auto" if a node has a GPU."""
        if device == "auto":
            return any(node.get("GPU") for node in self.nodes())
        if device.startswith("mps"):
            raise OptionError(
                "device mps: Ray schedules no Apple GPUs: use engine='local', or device='cpu'"
            )
        return device.startswith("cuda")

    def nodes(self) -> list[Node]:
        """Return the resources of every node that is up."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def worker_resources(self, *, gpu: bool, threads: int) -> Resources:
        """Return what one worker needs.

        On a CPU that is one core per thread, at most those of the largest node; with a GPU, its
        share of the node's cores, to decode with.
        """
        nodes = self.nodes()
        if not gpu:
            largest = max((int(node.get("CPU", 0)) for node in nodes), default=1)
            return Resources(cpus=max(1, min(threads, largest)), gpus=0)
        shares = [int(node.get("CPU", 1) // node["GPU"]) for node in nodes if node.get("GPU")]
        return Resources(cpus=max(1, min(shares, default=1)), gpus=1)

    @contextmanager
    def pool(
        self, factory: WorkerFactory, *, gpu: bool, threads: int, on_message: MessageHandler
    ) -> Iterator[RayPool]:
        """Hold as many workers as the cluster has room for and the tasks need."""
        pool = RayPool(
            factory,
            nodes=self.nodes,
            resources=self.worker_resources(gpu=gpu, threads=threads),
            environment={name: os.environ[name] for name in FORWARDED_ENV if name in os.environ},
            on_message=on_message,
        )
        try:
            yield pool
        finally:
            pool.shutdown()


def _check_reachable(ray_address: str | None) -> None:
    """Raise OptionError for an address of another form, OSError if nothing answers there.

    Of a cluster that was killed Ray keeps the address, and "auto" would wait for it for minutes.
    """
    if ray_address == "auto":
        ray_address = _find_cluster()
    if ray_address is None:
        return
    host, colon, port = ray_address.rpartition(":")
    if not (colon and host and port.isdigit()) or "/" in host:
        raise OptionError(
            f"address {ray_address!r}: expected auto or HOST:PORT, "
            "as `ray start` prints it on a machine of the cluster"
        )
    socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()


def _find_cluster() -> str | None:
    """Return the HOST:PORT that Ray takes for "auto"; None if it is not of this form.

    Raises:
        ConnectionError: There is no cluster.
    """
    try:  # not a public name: another Ray may lack it
        from ray._private.services import get_ray_address_from_environment
    except ImportError:
        return None
    found = str(get_ray_address_from_environment("auto", None))
    return found if re.fullmatch(r"[^/]+:\d+", found) else None


def _silence(ray: Any) -> None:
    """Log what Ray prints about nodes and retries at DEBUG; real failures become errors anyway."""
    with suppress(AttributeError):  # not a public name: another Ray may lack it, and print
        ray._private.worker.print_to_stdstream = lambda data, *_, **__: logger.debug("%s", data)


@contextmanager
def _keep_signal_handlers() -> Iterator[None]:
    """Restore the SIGTERM handler that Ray replaces when it connects."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(TypeError):  # None: a handler that was not set from Python
            signal.signal(signal.SIGTERM, handler)
