"""Process of a worker on a Ray cluster: one thread runs tasks, one answers polls."""

from __future__ import annotations

import logging
import pickle
import threading
import uuid
from dataclasses import dataclass
from typing import Any

from layercache.engine.base import Progress, Worker, WorkerFactory
from layercache.errors import WorkerError

Messages = list[tuple[int, Any]]
"""Pairs of task number and message."""


@dataclass(frozen=True)
class LogLine:
    """A log record of a worker, forwarded to the driver."""

    logger: str
    level: int
    text: str


@dataclass(frozen=True)
class TaskFailure:
    """The exception of a task as a value; Ray would wrap it and add a traceback."""

    error: Exception


class Actor:
    """Ray actor around one worker.

    Ray makes it anew if its process or node is lost. The worker is made with the first task, so
    that its errors are reported as that task's.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._process_id = uuid.uuid4().hex
        self._worker: Worker | None = None
        self._task_number = -1
        self._messages: Messages = []
        self._has_messages = threading.Condition()
        logger = logging.getLogger("layercache")
        logger.setLevel(logging.INFO)
        logger.addHandler(_ForwardingHandler(self))

    def run(self, number: int, task: Any, factory: list[Any]) -> Any:
        """Return the result of a task, or its TaskFailure.

        Args:
            number: Number of the task, for its messages.
            task: The task.
            factory: Reference to the WorkerFactory, in a list so that Ray fetches it only when the
                worker is made.
        """
        self._task_number = number
        try:
            if self._worker is None:
                import ray

                make_worker: WorkerFactory = ray.get(factory[0])
                self._worker = make_worker(self.emit, self._cores)
            return self._worker(task)
        except Exception as error:
            return TaskFailure(_picklable(error))

    def poll(self, seconds: float) -> tuple[str, Messages]:
        """Return the id of this process and the messages since the last poll.

        A changed id means that the previous process was lost. Waits up to `seconds` for a first
        message.
        """
        with self._has_messages:
            self._has_messages.wait_for(lambda: bool(self._messages), seconds)
            messages, self._messages = self._messages, []
            return self._process_id, messages

    def emit(self, message: Any) -> None:
        """Queue a message of the current task; consecutive Progress messages become one."""
        with self._has_messages:
            last = self._messages[-1] if self._messages else None
            if (
                isinstance(message, Progress)
                and last is not None
                and last[0] == self._task_number
                and isinstance(last[1], Progress)
            ):
                self._messages.pop()
            self._messages.append((self._task_number, message))
            self._has_messages.notify_all()


class _ForwardingHandler(logging.Handler):
    """Turns log records into messages."""

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self._actor = actor

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record as a LogLine."""
        self._actor.emit(LogLine(record.name, record.levelno, record.getMessage()))


def _picklable(error: Exception) -> Exception:
    """Return the exception if it survives pickling, else a WorkerError with its text."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:
        pass
    return WorkerError(f"unexpected {type(error).__name__}: {error}")
