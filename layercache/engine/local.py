"""The engine that runs tasks in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from layercache.engine.base import MessageHandler, Worker, WorkerFactory


class LocalEngine:
    """One worker in this process."""

    distributed = False

    def has_gpu(self, device: str) -> bool | None:
        """Return None: the caller runs in the same process."""
        return None

    @contextmanager
    def pool(
        self, factory: WorkerFactory, *, gpu: bool, threads: int, on_message: MessageHandler
    ) -> Iterator[LocalPool]:
        """Make the worker at once."""
        pool = LocalPool(on_message)
        with closing(factory(pool.emit, None)) as worker:
            pool.worker = worker
            yield pool


class LocalPool:
    """The one worker of a LocalEngine."""

    workers = 1
    worker: Worker

    def __init__(self, on_message: MessageHandler) -> None:
        self._on_message = on_message
        self._task: Any = None

    def emit(self, message: Any) -> None:
        """Pass a message on at once."""
        self._on_message(self._task, message)

    def run(self, tasks: deque[Any]) -> Iterator[tuple[Any, Any]]:
        """Run the tasks in order."""
        while tasks:
            self._task = tasks.popleft()
            yield self._task, self.worker(self._task)
