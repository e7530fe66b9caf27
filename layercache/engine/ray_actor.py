"""What runs in a worker process of a Ray cluster: takes tasks in one thread, and lets itself be asked for news in another."""

from __future__ import annotations

import pickle
import threading
import uuid
from dataclasses import dataclass
from typing import Any

from layercache.engine.base import Progress, Worker, WorkerFactory
from layercache.errors import WorkerError

Told = list[tuple[int, Any]]
"""(number of the task, message)."""
News = tuple[str, Told]
"""(the process's own name, what was told): another name says that the process before was lost."""


@dataclass(frozen=True)
class TaskFailure:
    """A task's exception, as a value: Ray would wrap it, and tell it with a traceback of its own."""

    error: Exception


class Actor:
    """Made anew by Ray where its process or node was lost; the worker is made with the first task, so that its faults are that task's."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._name = uuid.uuid4().hex
        self._worker: Worker | None = None
        self._number = -1
        self._told: Told = []
        self._news = threading.Condition()

    def run(self, number: int, task: Any, make: list[Any]) -> Any:
        """The task's result, or a Fault. make: the reference to a Make, in a list, so that it is fetched only when the worker is made."""
        self._number = number
        try:
            if self._worker is None:
                import ray

                made: WorkerFactory = ray.get(make[0])
                self._worker = made(self._tell, self._cores)
            return self._worker(task)
        except Exception as error:
            return TaskFailure(_portable(error))

    def hear(self, seconds: float) -> News:
        """What was told since the last time; waits so long for something."""
        with self._news:
            self._news.wait_for(lambda: bool(self._told), seconds)
            told, self._told = self._told, []
            return self._name, told

    def _tell(self, message: Any) -> None:
        with self._news:
            last = self._told[-1] if self._told else None
            if (
                isinstance(message, Progress)
                and last is not None
                and last[0] == self._number
                and isinstance(last[1], Progress)
            ):
                self._told.pop()
            self._told.append((self._number, message))
            self._news.notify_all()


def _portable(error: Exception) -> Exception:
    """The exception as it is, if it survives being pickled."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:
        pass
    return WorkerError(f"unexpected {type(error).__name__}: {error}")
