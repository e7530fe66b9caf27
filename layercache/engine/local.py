"""The engine that is this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from layercache.engine.base import MessageHandler, Say, Worker, WorkerFactory


class LocalEngine:
    """One worker, here."""

    spreads = False

    def gpu(self, device: str) -> bool | None:
        """Left to whoever asks."""
        return None

    @contextmanager
    def crew(
        self, make: WorkerFactory, *, gpu: bool, threads: int, say: Say, heard: MessageHandler
    ) -> Iterator[LocalPool]:
        """Makes the worker at once."""
        crew = LocalPool(say, heard)
        with closing(make(crew.tell, None)) as worker:
            crew.worker = worker
            yield crew


class LocalPool:
    """The worker and who listens to it."""

    workers = 1
    worker: Worker

    def __init__(self, say: Say, heard: MessageHandler) -> None:
        self._say, self._heard = say, heard
        self._task: Any = None

    def tell(self, message: Any) -> None:
        """Passes a message on at once."""
        if isinstance(message, str):
            self._say(message)
        else:
            self._heard(self._task, message)

    def run(self, tasks: deque[Any]) -> Iterator[tuple[Any, Any]]:
        """One after the other, in order."""
        while tasks:
            self._task = tasks.popleft()
            yield self._task, self.worker(self._task)
