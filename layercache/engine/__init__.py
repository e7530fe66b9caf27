"""Where tasks run: in this process, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from layercache.engine.base import (
    Emit,
    Engine,
    MessageHandler,
    Progress,
    Say,
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
    "Say",
    "Worker",
    "WorkerFactory",
    "WorkerPool",
    "check_engine",
    "open_engine",
    "why_device",
]

ENGINES = ("local", "ray")


def check_engine(name: str, address: str | None) -> None:
    """Raises UnknownNameError, OptionError."""
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ENGINES)
    if address is not None and name != "ray":
        raise OptionError(
            f"address {address!r}: it is the address of a Ray cluster, so it needs --engine ray"
        )


@contextmanager
def open_engine(name: str, *, address: str | None = None) -> Iterator[Engine]:
    """The engine of that name. One of Ray joins the cluster at `address`, or starts one of this machine alone and ends it with the context.

    Raises what `check_engine` raises, MissingExtraError, WorkerError (no such cluster).
    """
    check_engine(name, address)
    if name == "local":
        yield LocalEngine()
        return
    from layercache.engine.ray_engine import session

    with session(address) as engine:
        yield engine


def why_device(asked: str, *, gpu: bool) -> str:
    """Why the workers of a cluster have a GPU or none, for the user. asked: "auto", "cpu" or "cuda"."""
    return (
        "as asked"
        if asked != "auto"
        else "the cluster has GPUs"
        if gpu
        else "no GPU in the cluster"
    )
