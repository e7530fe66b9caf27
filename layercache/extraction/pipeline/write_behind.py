"""A thread that puts batches together to row blocks and commits them while the next batch is computed.

L layers, T token kinds, n images of a row block, D width.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from queue import Queue
from typing import Any, Protocol

import numpy as np

from layercache.extraction.pipeline.device import Tokens

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

    def write(self, block: int, tokens_ltnd: np.ndarray[Any, Any], *, skipped: Mapping[int, str] | None = None) -> object:
        """Commit a row block."""
        ...


class Blocks:
    """Collects the rows of one split of one model, which come in order, and writes each pending row block when it is full."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._pending = frozenset(writer.pending)
        self._memory: np.ndarray[Any, Any] | None = None
        self._skipped: dict[int, str] = {}
        self.seconds = 0.0
        """Time in `write` so far."""
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
            held[:, :, first - block * size : last - block * size] = tokens[:, :, first - start : last - start]
            self._skipped |= {row: reason for row, reason in skipped.items() if first <= row < last}
            if last == min((block + 1) * size, rows):
                began = time.perf_counter()
                self._writer.write(block, held, skipped=self._skipped)
                self.seconds += time.perf_counter() - began
                self._skipped = {}

    def _block(self, tokens: np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
        """(L, T, n, D), contiguous, always the same memory: buffers of this size are dear to get."""
        layers, kinds, _, width = tokens.shape
        if self._memory is None:
            self._memory = np.empty(layers * kinds * self._writer.block_rows * width, tokens.dtype)
        shape = (layers, kinds, n, width)
        return self._memory[: math.prod(shape)].reshape(shape)


class WriteBehind:
    """Context manager around the thread. Leaving it, also by an exception, waits until what was handed over is written: it is good work."""

    def __init__(self) -> None:
        self._queue: Queue[tuple[Blocks, int, Tokens, Mapping[int, str]] | None] = Queue(DEPTH)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="layercache-write", daemon=True)

    def put(self, blocks: Blocks, start: int, tokens: Tokens, skipped: Mapping[int, str]) -> None:
        """Hand over a batch; waits while DEPTH batches are waiting. Raises what the writing thread raised."""
        self._check()
        self._queue.put((blocks, start, tokens, skipped))

    def __enter__(self) -> WriteBehind:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._check()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue  # emptied all the same, so that `put` cannot wait for ever
            blocks, start, tokens, skipped = item
            try:
                blocks.add(start, tokens.fetch(), skipped)
                blocks.forward += tokens.release()
            except BaseException as error:
                self._error = error

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
