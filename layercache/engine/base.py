"""Protocols of an engine: workers with expensive state that run tasks and return results.

An engine is independent of caches and heads. A task may run twice if its worker is lost, so it must
be repeatable. Workers log to `layercache` loggers; on a cluster their records are forwarded to the
driver.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

MessageHandler = Callable[[Any, Any], object]
"""Called with (task, message) for each message that a worker emits during a task.

The task of a lost worker starts again, and so do its messages.
"""


@dataclass(frozen=True)
class Progress:
    """Progress of a task; only the last message counts."""

    done: int
    """Units of work done since the task started."""
    total: int
    """Units of work of the whole task."""


Emit = Callable[[Any], None]
"""Called by a worker to send a message about its current task to the message handler."""


class Worker(Protocol):
    """Runs tasks, and holds the state they share."""

    def __call__(self, task: Any, /) -> Any:
        """Return the result of a task."""
        ...

    def close(self) -> None:
        """Release the shared state; not called on a cluster, where the process ends instead."""
        ...


WorkerFactory = Callable[[Emit, int | None], Worker]
"""Makes a worker in its process from `emit` and its number of cores (None: all of this process).

On a cluster it must be picklable, as must tasks, messages and results.
"""


class WorkerPool(Protocol):
    """Workers of one kind."""

    @property
    def workers(self) -> int:
        """Maximum number of workers."""
        ...

    def run(self, tasks: deque[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield (task, result) as tasks complete; the caller may add tasks meanwhile.

        Raises:
            WorkerError: A worker was lost repeatedly, or no machine is left.
            Exception: Whatever a task raised.
        """
        ...


class Engine(Protocol):
    """Runs tasks on workers."""

    distributed: bool
    """True if tasks run concurrently in other processes; False if one after another in this one."""

    def has_gpu(self, device: str) -> bool | None:
        """Return whether workers have a GPU for a requested device ("auto", "cpu" or "cuda").

        None means that workers run in this process, so the caller can see for itself.
        """
        ...

    def pool(
        self, factory: WorkerFactory, *, gpu: bool, threads: int, on_message: MessageHandler
    ) -> AbstractContextManager[WorkerPool]:
        """Return a context manager that holds workers.

        Args:
            factory: Makes each worker.
            gpu: Give each worker a GPU of its own.
            threads: Number of threads that a worker computes with on a CPU.
            on_message: Receives the messages of the workers.
        """
        ...
