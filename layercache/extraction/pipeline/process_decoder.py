"""The decoder that is several worker processes.

In the main process a dispatcher thread keeps every worker supplied with small tasks, so that all of
them work on the chunk that is needed next; the pixels stay in shared memory. A worker that dies
ends the run with its signal and the samples that it was decoding.

A worker is a fresh interpreter at one end of a socket: neither a fork (unsafe next to torch's
threads) nor multiprocessing's spawn (which imports the caller's main module again). It ends when
the socket closes, so it never outlives its parent, and it imports neither torch nor timm unless the
samples do. It receives a Setup, then for every split a SplitSetup and DecodeTasks; it answers every
task with a DecodeResult, or with a LayercacheError or WorkerFailure and ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait

from layercache.errors import LayercacheError, WorkerError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.pipeline import shared_memory
from layercache.extraction.pipeline.decode import DecodedRows, RowRange, Transform, decode_rows
from layercache.extraction.pipeline.decoder import DecodedChunk

TASK_ROWS = 16
"""Largest number of rows of a task: small, so that all workers share a chunk; large, so that
messages cost nothing."""
TASKS_PER_WORKER = 2
"""Tasks given to a worker at a time: one in progress, one queued."""
PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    f"from {__name__} import serve_socket; serve_socket(int(sys.argv[2]))"
)
"""Program of a worker, for `python -c`. Arguments: the parent's sys.path as JSON, the number of the
socket."""


@dataclass(frozen=True)
class Setup:
    """The first message to a worker."""

    memory: int
    """File descriptor of the shared memory."""
    slots: int
    """Number of slots in it."""
    rows: int
    """Rows of one slot."""
    shapes: tuple[shared_memory.Shape, ...]
    """Output shape of each transform."""
    niceness: int
    """Added to the niceness of the process."""


@dataclass(frozen=True)
class SplitSetup:
    """Samples that the following tasks decode."""

    samples: Samples
    transforms: tuple[Transform, ...]
    """One per shape of the Setup."""


@dataclass(frozen=True)
class DecodeTask:
    """Rows to decode into a slot."""

    slot: int
    offset: int
    """Position of the first row in the slot."""
    rows: RowRange


@dataclass(frozen=True)
class DecodeResult:
    """A finished task."""

    task: DecodeTask
    decoded: DecodedRows
    seconds: float
    """Wall time of the task."""


@dataclass(frozen=True)
class WorkerFailure:
    """The worker cannot continue."""

    traceback: str


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    tasks: deque[DecodeTask] = field(default_factory=deque)


@dataclass
class _PendingChunk:
    """A chunk that has a slot."""

    rows: RowRange
    slot: int
    missing: int
    """Rows not decoded yet."""
    failures: dict[int, str] = field(default_factory=dict)
    transparent: int = 0


class ProcessDecoder:
    """A decoder in `workers` processes, which write into `slots` slots of shared memory."""

    def __init__(
        self,
        *,
        workers: int,
        shapes: Sequence[shared_memory.Shape],
        rows: int,
        slots: int = 4,
        niceness: int = 0,
    ) -> None:
        """Start the workers.

        Args:
            workers: Number of processes.
            shapes: Output shape of each transform.
            rows: Rows of the longest chunk.
            slots: Chunks that may be decoded and not yet released.
            niceness: Niceness of the workers, for where the forward needs the same cores.
        """
        self._seconds = 0.0
        self._memory, self._slots = shared_memory.allocate(
            slots=slots, rows=rows, shapes=tuple(shapes)
        )
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._waker, self._woken = socket.socketpair()
        self._workers: list[_Worker] = []
        self._samples: Samples | None = None
        setup = Setup(self._memory, slots, rows, tuple(shapes), niceness)
        try:
            for _ in range(workers):
                self._workers.append(_start_worker(setup))
        except BaseException:
            self.close()
            raise

    @property
    def busy_seconds(self) -> float:
        """Wall seconds spent decoding so far, mean over the workers."""
        return self._seconds / len(self._workers)

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def run(
        self, samples: Samples, transforms: Sequence[Transform], chunks: Sequence[RowRange]
    ) -> Generator[DecodedChunk, None, None]:
        """Yield the chunks in order.

        Raises:
            WorkerError: A worker died or failed.
            DataChangedError: See `decode_rows`.
        """
        self._samples = samples
        for worker in self._workers:
            self._send(worker, SplitSetup(samples, tuple(transforms)))
        self._waiting = deque(chunks)
        self._free = deque(range(len(self._slots)))
        self._pending: dict[int, _PendingChunk] = {}
        self._tasks: deque[DecodeTask] = deque()
        self._ended = False
        dispatcher = threading.Thread(
            target=self._dispatch, name="layercache-dispatch", daemon=True
        )
        dispatcher.start()
        try:
            for rows in chunks:
                chunk = self._wait_for(rows)
                pixels = tuple(array[: rows.rows] for array in self._slots[chunk.slot])
                release = partial(self._release, chunk)
                yield DecodedChunk(rows, pixels, chunk.failures, chunk.transparent, release)
        finally:
            self._ended = True
            self._wake()
            dispatcher.join()

    def close(self) -> None:
        """End the workers: at once if they read their pipe, else by SIGKILL after a second."""
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            try:
                worker.process.wait(timeout=1)
            except subprocess.TimeoutExpired:  # in the middle of a task
                worker.process.kill()
                worker.process.wait()
        with suppress(OSError):
            os.close(self._memory)
        self._waker.close()
        self._woken.close()

    def _wait_for(self, rows: RowRange) -> _PendingChunk:
        with self._changed:
            while self._error is None:
                chunk = self._pending.get(rows.start)
                if chunk is not None and not chunk.missing:
                    return chunk
                self._changed.wait()
            raise self._error

    def _release(self, chunk: _PendingChunk) -> None:
        with self._changed:
            del self._pending[chunk.rows.start]
            self._free.append(chunk.slot)
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):
            self._waker.send(b"!")

    def _dispatch(self) -> None:
        """Run the dispatcher thread."""
        try:
            while not self._ended:
                self._make_tasks()
                self._send_tasks()
                for pipe in wait([self._woken, *(worker.pipe for worker in self._workers)]):
                    if pipe is self._woken:
                        self._woken.recv(4096)
                    else:
                        self._receive(next(w for w in self._workers if w.pipe is pipe))
        except BaseException as error:  # raised in `run`, which would otherwise wait for ever
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _make_tasks(self) -> None:
        with self._changed:
            while self._free and self._waiting:
                rows, slot = self._waiting.popleft(), self._free.popleft()
                self._pending[rows.start] = _PendingChunk(rows, slot, rows.rows)
                size = max(1, min(TASK_ROWS, rows.rows // (2 * len(self._workers))))
                for start in range(rows.start, rows.stop, size):
                    part = RowRange(start, min(start + size, rows.stop))
                    self._tasks.append(DecodeTask(slot, start - rows.start, part))

    def _send_tasks(self) -> None:
        for depth in range(1, TASKS_PER_WORKER + 1):  # every worker gets one before any gets two
            for worker in self._workers:
                if self._tasks and len(worker.tasks) < depth:
                    task = self._tasks.popleft()
                    worker.tasks.append(task)
                    self._send(worker, task)

    def _receive(self, worker: _Worker) -> None:
        try:
            message: DecodeResult | LayercacheError | WorkerFailure = worker.pipe.recv()
        except (EOFError, OSError):
            raise self._death(worker) from None
        if not isinstance(message, DecodeResult):
            raise self._failure(worker, message)
        worker.tasks.popleft()
        with self._changed:
            self._seconds += message.seconds
            chunk = next(c for c in self._pending.values() if c.slot == message.task.slot)
            chunk.failures.update(message.decoded.failures)
            chunk.transparent += message.decoded.transparent
            chunk.missing -= message.task.rows.rows
            if not chunk.missing:
                self._changed.notify_all()

    def _send(self, worker: _Worker, message: SplitSetup | DecodeTask) -> None:
        try:
            worker.pipe.send(message)
        except OSError:
            raise self._last_error(worker) from None

    def _last_error(self, worker: _Worker) -> LayercacheError:
        """Return the error that a worker sent before it ended, or that it died."""
        while True:
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                return self._death(worker)
            if not isinstance(message, DecodeResult):
                return self._failure(worker, message)

    def _failure(
        self, worker: _Worker, message: LayercacheError | WorkerFailure
    ) -> LayercacheError:
        if isinstance(message, LayercacheError):
            return message
        return WorkerError(
            f"a decoding worker failed{self._samples_of(worker)}; workers=0 decodes in this "
            f"process. Its traceback:\n{message.traceback}"
        )

    def _death(self, worker: _Worker) -> WorkerError:
        code = worker.process.wait()
        cause = f"exited with code {code}"
        if code < 0:
            cause = f"was killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            cause += " (out of memory?)"
        return WorkerError(
            f"decoding worker {worker.process.pid} {cause}{self._samples_of(worker)}. What was "
            "committed is kept: the same command continues, with fewer workers if memory was short"
        )

    def _samples_of(self, worker: _Worker) -> str:
        """Return which samples a worker is decoding, for an error message."""
        if not worker.tasks or self._samples is None:
            return ""
        ids, rows = self._samples.ids, worker.tasks[0].rows
        return f" between samples {ids[rows.start]!r} and {ids[rows.stop - 1]!r}"


def _start_worker(setup: Setup) -> _Worker:
    parent_end, child_end = socket.socketpair()
    with child_end:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(sys.path), str(child_end.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=(child_end.fileno(), setup.memory),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    worker = _Worker(process, Connection(parent_end.detach()))
    worker.pipe.send(setup)
    return worker


def serve_socket(fd: int) -> None:
    """Run a worker process on a socket until the parent closes it."""
    # Ctrl-C reaches the whole process group; the parent decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(fd)
    try:
        _serve(pipe)
    except (EOFError, ConnectionError):
        pass  # the parent has finished, or is gone
    except LayercacheError as error:
        pipe.send(error)
    except Exception:
        pipe.send(WorkerFailure(traceback.format_exc()))


def _serve(pipe: Connection) -> None:
    setup: Setup = pipe.recv()
    os.nice(setup.niceness)
    slots = shared_memory.map_slots(
        setup.memory, slots=setup.slots, rows=setup.rows, shapes=setup.shapes
    )
    split: SplitSetup | None = None
    while True:
        message: SplitSetup | DecodeTask = pipe.recv()
        if isinstance(message, SplitSetup):
            split = message
            continue
        assert split is not None
        began = time.perf_counter()
        span = slice(message.offset, message.offset + message.rows.rows)
        out = [array[span] for array in slots[message.slot]]
        decoded = decode_rows(split.samples, split.transforms, message.rows, out)
        pipe.send(DecodeResult(message, decoded, time.perf_counter() - began))
