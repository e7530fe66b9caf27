"""The decoder that is several worker processes.

A dispatcher thread of this process keeps every worker supplied with small tasks, so that all of them work on the piece that is wanted
next; the pixels stay in shared memory. A worker that dies ends the run with its signal and the rows it was at.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from layercache.errors import WorkerError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.pipeline import shared_memory
from layercache.extraction.pipeline.batching import DecodeChunk
from layercache.extraction.pipeline.decode_rows import Transform
from layercache.extraction.pipeline.decode_worker import (
    PROGRAM,
    Done,
    Setup,
    Split,
    Task,
    WorkerFailure,
)
from layercache.extraction.pipeline.decoder import Decoded

TASK_ROWS = 16
"""Rows of a task at most: small enough that all workers share a piece, large enough that messages cost nothing."""
AHEAD = 2
"""Tasks given to a worker at a time: one at hand, one waiting."""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    tasks: deque[Task] = field(default_factory=deque)


@dataclass
class _Open:
    """A piece that has a slot."""

    piece: DecodeChunk
    slot: int
    missing: int
    """Rows not decoded yet."""
    failed: dict[int, str] = field(default_factory=dict)


class ProcessDecoder:
    """`workers` processes that decode into `slots` slots of shared memory."""

    def __init__(
        self,
        *,
        workers: int,
        shapes: Sequence[shared_memory.Shape],
        rows: int,
        slots: int = 4,
        nice: int = 0,
    ) -> None:
        """`rows`: the longest piece; `nice`: niceness of the workers, for where the forward needs the same cores."""
        self.seconds = 0.0
        self._ring = shared_memory.create(
            shared_memory.size(slots=slots, rows=rows, shapes=tuple(shapes))
        )
        self._views = shared_memory.views(self._ring, slots=slots, rows=rows, shapes=tuple(shapes))
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._waker, self._woken = socket.socketpair()
        self._workers: list[_Worker] = []
        self._samples: Samples | None = None
        try:
            for _ in range(workers):
                self._workers.append(_start(Setup(self._ring, slots, rows, tuple(shapes), nice)))
        except BaseException:
            self.close()
            raise

    @property
    def busy(self) -> float:
        """Seconds of decoding so far, mean over the workers."""
        return self.seconds / len(self._workers)

    def run(
        self, samples: Samples, transforms: Sequence[Transform], pieces: Sequence[DecodeChunk]
    ) -> Generator[Decoded, None, None]:
        """The pieces in order. Raises WorkerError when a worker dies or breaks."""
        self._samples = samples
        for worker in self._workers:
            self._send(worker, Split(samples, tuple(transforms)))
        self._coming = deque(pieces)
        self._free = deque(range(len(self._views)))
        self._open: dict[int, _Open] = {}
        self._tasks: deque[Task] = deque()
        self._ended = False
        dispatcher = threading.Thread(
            target=self._dispatch, name="layercache-dispatch", daemon=True
        )
        dispatcher.start()
        try:
            for piece in pieces:
                with self._changed:
                    while self._error is None and (
                        (got := self._open.get(piece.start)) is None or got.missing
                    ):
                        self._changed.wait()
                    if self._error is not None:
                        raise self._error
                    assert got is not None
                yield Decoded(piece, self._pixels(got), got.failed, partial(self._release, got))
        finally:
            self._ended = True
            self._wake()
            dispatcher.join()

    def close(self) -> None:
        """End the workers: at once if they read their pipe, else by force."""
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            try:
                worker.process.wait(timeout=1)
            except subprocess.TimeoutExpired:  # in the middle of a task
                worker.process.kill()
                worker.process.wait()
        with suppress(OSError):
            os.close(self._ring)
        self._waker.close()
        self._woken.close()

    def _pixels(self, got: _Open) -> tuple[np.ndarray[Any, Any], ...]:
        return tuple(part[: got.piece.rows] for part in self._views[got.slot])

    def _release(self, got: _Open) -> None:
        with self._changed:
            del self._open[got.piece.start]
            self._free.append(got.slot)
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):
            self._waker.send(b"!")

    def _dispatch(self) -> None:
        """The dispatcher thread."""
        try:
            while not self._ended:
                self._hand_out()
                for pipe in wait([self._woken, *(worker.pipe for worker in self._workers)]):
                    if pipe is self._woken:
                        self._woken.recv(4096)
                    else:
                        self._receive(
                            next(worker for worker in self._workers if worker.pipe is pipe)
                        )
        except BaseException as error:  # to whoever waits for a piece, lest it wait for ever
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _hand_out(self) -> None:
        with self._changed:
            while self._free and self._coming:
                piece, slot = self._coming.popleft(), self._free.popleft()
                self._open[piece.start] = _Open(piece, slot, piece.rows)
                size = max(1, min(TASK_ROWS, piece.rows // (2 * len(self._workers))))
                cuts = range(piece.start, piece.stop, size)
                self._tasks.extend(
                    Task(slot, start - piece.start, start, min(start + size, piece.stop))
                    for start in cuts
                )
        for depth in range(1, AHEAD + 1):  # everyone has one before anyone has two
            for worker in self._workers:
                if self._tasks and len(worker.tasks) < depth:
                    task = self._tasks.popleft()
                    worker.tasks.append(task)
                    self._send(worker, task)

    def _receive(self, worker: _Worker) -> None:
        try:
            message: Done | WorkerFailure = worker.pipe.recv()
        except (EOFError, OSError):
            raise self._dead(worker) from None
        if isinstance(message, WorkerFailure):
            raise WorkerError(
                f"a decoding worker failed{self._at(worker)}; --workers 0 decodes in this process. Its traceback:\n{message.text}"
            )
        worker.tasks.popleft()
        with self._changed:
            self.seconds += message.seconds
            got = next(o for o in self._open.values() if o.slot == message.task.slot)
            got.failed.update(message.failed)
            got.missing -= message.task.stop - message.task.start
            if not got.missing:
                self._changed.notify_all()

    def _send(self, worker: _Worker, message: Split | Task) -> None:
        try:
            worker.pipe.send(message)
        except OSError:
            raise self._dead(worker) from None

    def _dead(self, worker: _Worker) -> WorkerError:
        code = worker.process.wait()
        cause = (
            f"was ended by {signal.Signals(-code).name}"
            if code < 0
            else f"left with exit code {code}"
        )
        memory = " (out of memory?)" if code == -signal.SIGKILL else ""
        return WorkerError(
            f"decoding worker {worker.process.pid} {cause}{memory}{self._at(worker)}. "
            "What was committed is kept: the same command continues, with fewer --workers if memory was short"
        )

    def _at(self, worker: _Worker) -> str:
        if not worker.tasks or self._samples is None:
            return ""
        task = worker.tasks[0]
        return f" between samples {self._samples.ids[task.start]!r} and {self._samples.ids[task.stop - 1]!r}"


def _start(setup: Setup) -> _Worker:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(sys.path), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), setup.ring),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    worker = _Worker(process, Connection(ours.detach()))
    worker.pipe.send(setup)
    return worker
