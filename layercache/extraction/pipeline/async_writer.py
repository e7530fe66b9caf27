"""A thread that puts batches together to row blocks and commits them while the next batch is computed.

L layers, T token kinds, n images of a row block, D width.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue
from typing import Any, Protocol

import numpy as np

from layercache.extraction.pipeline.forward import Tokens

DEPTH = 4
"""Batches that wait to be written, at most."""


class Writer(Protocol):
    """What it needs of a cache.writer.SplitWriter or a cache.blocks.BlockWriter."""

    @property
    def rows(self) -> int:
        """N."""
        ...

    @property
    def block_rows(self) -> int:
        """R."""
        ...

    @property
    def pending(self) -> tuple[int, ...]:
        """Row blocks not committed yet."""
        ...

    def write(
        self,
        block: int,
        tokens_ltnd: np.ndarray[Any, Any],
        *,
        skipped: Mapping[int, str] | None = None,
    ) -> object:
        """Commit a row block."""
        ...


class BlockAssembler:
    """Collects the rows of one split of one model, which come in order, and writes each pending row block when it is full."""

    def __init__(self, writer: Writer, *, at_once: int = 1) -> None:
        """at_once: blocks that may be on their way at the same time, each in memory of its own; with 1, `add` writes them itself."""
        self._writer = writer
        self._pending = frozenset(writer.pending)
        self._memory: list[np.ndarray[Any, Any] | None] = [None] * at_once
        self._turn = 0
        self._pool = (
            ThreadPoolExecutor(at_once, thread_name_prefix="layercache-put")
            if at_once > 1
            else None
        )
        self._under_way: deque[Future[None]] = deque()
        self._lock = threading.Lock()
        self._skipped: dict[int, str] = {}
        self.seconds = 0.0
        """Time in `write` so far, of all threads."""
        self.forward = 0.0
        """Time that the forwards took on the device so far."""

    def add(self, start: int, tokens: np.ndarray[Any, Any], skipped: Mapping[int, str]) -> None:
        """Rows start.. of tokens (L, T, b, D); `skipped` gives those without an image, row -> reason."""
        size, rows = self._writer.block_rows, self._writer.rows
        stop = start + tokens.shape[2]
        for block in range(start // size, -(-stop // size)):
            if block not in self._pending:
                continue
            first, last = max(start, block * size), min(stop, (block + 1) * size)
            held = self._block(tokens, min(size, rows - block * size))
            held[:, :, first - block * size : last - block * size] = tokens[
                :, :, first - start : last - start
            ]
            self._skipped |= {row: reason for row, reason in skipped.items() if first <= row < last}
            if last == min((block + 1) * size, rows):
                if self._pool is None:
                    self._write(block, held, self._skipped)
                else:
                    self._under_way.append(
                        self._pool.submit(self._write, block, held, self._skipped)
                    )
                    self._turn = (self._turn + 1) % len(self._memory)
                    if len(self._under_way) == len(
                        self._memory
                    ):  # the next memory is still being read
                        self._under_way.popleft().result()
                self._skipped = {}

    def finish(self) -> None:
        """Wait until what is under way is written. Raises what the first that failed raised."""
        if self._pool is not None:
            self._pool.shutdown()
        while self._under_way:
            self._under_way.popleft().result()

    def _write(self, block: int, held: np.ndarray[Any, Any], skipped: Mapping[int, str]) -> None:
        began = time.perf_counter()
        self._writer.write(block, held, skipped=skipped)
        with self._lock:
            self.seconds += time.perf_counter() - began

    def _block(self, tokens: np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
        """(L, T, n, D), contiguous, always the same memory, or few in turn: buffers of this size are dear to get."""
        layers, kinds, _, width = tokens.shape
        memory = self._memory[self._turn]
        if memory is None:
            memory = self._memory[self._turn] = np.empty(
                layers * kinds * self._writer.block_rows * width, tokens.dtype
            )
        shape = (layers, kinds, n, width)
        return memory[: math.prod(shape)].reshape(shape)


class AsyncWriter:
    """Context manager around the thread. Leaving it, also by an exception, waits until what was handed over is written: it is good work."""

    def __init__(self) -> None:
        self._queue: Queue[tuple[BlockAssembler, int, Tokens, Mapping[int, str]] | None] = Queue(
            DEPTH
        )
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="layercache-write", daemon=True)

    def put(
        self, blocks: BlockAssembler, start: int, tokens: Tokens, skipped: Mapping[int, str]
    ) -> None:
        """Hand over a batch; waits while DEPTH batches are waiting. Raises what the writing thread raised."""
        self._check()
        self._queue.put((blocks, start, tokens, skipped))

    def __enter__(self) -> AsyncWriter:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._check()

    def _run(self) -> None:
        begun: dict[BlockAssembler, None] = {}
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue  # emptied all the same, so that `put` cannot wait for ever
            blocks, start, tokens, skipped = item
            begun[blocks] = None
            try:
                blocks.add(start, tokens.fetch(), skipped)
                blocks.forward += tokens.release()
            except BaseException as error:
                self._error = error
        for blocks in begun:
            try:
                blocks.finish()
            except BaseException as error:
                self._error = self._error or error

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
