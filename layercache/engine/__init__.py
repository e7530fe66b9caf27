"""Engines that run tasks: in this process, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from layercache.engine.base import (
    Emit,
    Engine,
    MessageHandler,
    Progress,
    Worker,
    WorkerFactory,
    WorkerPool,
)
from layercache.engine.local import LocalEngine
from layercache.errors import OptionError, UnknownNameError

__all__ = [
    "ENGINES",
    "Emit",
    "Engine",
    "MessageHandler",
    "Progress",
    "Worker",
    "WorkerFactory",
    "WorkerPool",
    "check_engine",
    "cluster_device",
    "open_engine",
]

ENGINES = ("local", "ray")


def check_engine(name: str, ray_address: str | None) -> None:
    """Check an engine's name and address.

    Raises:
        UnknownNameError: There is no such engine.
        OptionError: An address was given for an engine other than Ray.
    """
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ENGINES)
    if ray_address is not None and name != "ray":
        raise OptionError(
            f"address {ray_address!r}: it is the address of a Ray cluster, so it needs --engine ray"
        )


@contextmanager
def open_engine(name: str, *, ray_address: str | None = None) -> Iterator[Engine]:
    """Yield the engine of that name.

    Ray joins the cluster at `ray_address`, or starts one on this machine and stops it with the
    context.

    Raises:
        UnknownNameError: There is no such engine.
        OptionError: The address does not go with the engine, or has another form.
        MissingExtraError: Ray is not installed.
        WorkerError: No cluster answers at the address.
    """
    check_engine(name, ray_address)
    if name == "local":
        yield LocalEngine()
        return
    from layercache.engine.ray_engine import session

    with session(ray_address) as engine:
        yield engine


def cluster_device(engine: Engine, requested: str) -> tuple[str, str] | None:
    """Return the device of an engine's workers and the reason for it.

    None means that workers run in this process, where `resolve_device` applies.
    """
    gpu = engine.has_gpu(requested)
    if gpu is None:
        return None
    reason = "as requested"
    if requested == "auto":
        reason = "the cluster has GPUs" if gpu else "no GPU in the cluster"
    return "cuda" if gpu else "cpu", reason
