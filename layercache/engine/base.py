"""What an engine is: workers that hold something dear, tasks that they take one after the other, results as they come.

It knows nothing of caches or heads. A task that is done twice, because its worker was lost, must do no harm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

Say = Callable[[str], object]
MessageHandler = Callable[[Any, Any], object]
"""(task, message): gets what a worker tells while it is at a task. A lost worker's task begins again, and so do its messages."""


@dataclass(frozen=True)
class Progress:
    """A message of which only the last counts."""

    done: int
    """Since the beginning of the task."""
    total: int


Emit = Callable[[Any], None]
"""What a worker calls with a message: a string is a line for the user, which all may tell and he reads once; anything else goes to `heard`."""


class Worker(Protocol):
    """Takes tasks; holds what they share."""

    def __call__(self, task: Any, /) -> Any:
        """The task's result."""
        ...

    def close(self) -> None:
        """Give up what it holds; of a worker on a cluster its process ends instead."""
        ...


WorkerFactory = Callable[[Emit, int | None], Worker]
"""Makes a worker where it is to work, from `tell` and the cores that it may use (None: all of this process's).

On a cluster it must be picklable, and so must tasks, messages and results.
"""


class WorkerPool(Protocol):
    """Workers of one kind."""

    @property
    def workers(self) -> int:
        """How many there are to be, at most."""
        ...

    def run(self, tasks: deque[Any]) -> Iterator[tuple[Any, Any]]:
        """(task, result) as they complete, until none is left; whoever iterates may add tasks meanwhile.

        Raises what a task raised, as it raised it; WorkerError where a worker was lost again and again, or no machine is left.
        """
        ...


class Engine(Protocol):
    """Where tasks run."""

    spreads: bool
    """Tasks run side by side, so that it is worth having many at a time; else one after the other, in this process."""

    def gpu(self, device: str) -> bool | None:
        """Whether the workers have a GPU for a device asked for ("auto", "cpu", "cuda"); None: that is this process's to find out."""
        ...

    def crew(
        self, make: WorkerFactory, *, gpu: bool, threads: int, say: Say, heard: MessageHandler
    ) -> AbstractContextManager[WorkerPool]:
        """Workers for as long as the context lasts. gpu: each has one of its own. threads: with which one computes on a CPU."""
        ...
