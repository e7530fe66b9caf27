"""A thread that assembles row blocks from batches of tokens and commits them behind the forward.

Shapes: L layers, T token kinds, n images of a row block, D width.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue
from typing import Any, Protocol

import numpy as np

from layercache.cache.format.records import BlockRecord
from layercache.cache.writing.partial_block import PartialBlock
from layercache.extraction.pipeline.forward import Tokens

QUEUE_SIZE = 4
"""Largest number of batches that wait to be written."""
SAVE_INTERVAL_S = 60.0
"""Seconds after which the rows of a row block that is not full are saved: a CPU may need many
minutes for a block."""


class RowBlockWriter(Protocol):
    """Commits row blocks: a `BlockWriter` or a `SplitWriter` of the cache."""

    @property
    def rows(self) -> int:
        """Number of rows of the split."""
        ...

    @property
    def block_rows(self) -> int:
        """Number of rows of every row block but the last."""
        ...

    def write(
        self,
        block: int,
        tokens_ltnd: np.ndarray[Any, Any],
        *,
        skipped: Mapping[int, str] | None = None,
    ) -> BlockRecord:
        """Commit a row block and return its record."""
        ...

    def save_partial(
        self,
        block: int,
        tokens_ltnd: np.ndarray[Any, Any],
        *,
        skipped: Mapping[int, str] | None = None,
    ) -> None:
        """Save the first rows of a row block, where the store allows it."""
        ...


class BlockAssembler:
    """Collects the rows of one split of one model, in order, and writes each full row block."""

    def __init__(
        self,
        writer: RowBlockWriter,
        *,
        pending: Collection[int],
        partials: Mapping[int, PartialBlock] | None = None,
        max_uploads: int = 1,
    ) -> None:
        """Prepare to write some row blocks.

        Args:
            writer: Commits the blocks.
            pending: Numbers of the blocks to write; rows of others are ignored.
            partials: Block -> its first rows, which need not be added.
            max_uploads: Blocks that may be written at the same time, each from its own memory. With
                1, `add` writes them itself.
        """
        self._writer = writer
        self._pending = frozenset(pending)
        self._partials = dict(partials or {})
        self._unsaved: tuple[int, np.ndarray[Any, Any]] | None = None
        """The block that is not full, and its rows so far."""
        self._saved_at = time.monotonic()
        self._buffers: list[np.ndarray[Any, Any] | None] = [None] * max_uploads
        self._buffer = 0
        self._pool: ThreadPoolExecutor | None = None
        if max_uploads > 1:
            self._pool = ThreadPoolExecutor(max_uploads, thread_name_prefix="layercache-upload")
        self._uploads: deque[Future[None]] = deque()
        self._lock = threading.Lock()
        self._skipped: dict[int, str] = {}
        self.records: dict[int, BlockRecord] = {}
        """Records of the blocks written so far."""
        self.write_seconds = 0.0
        """Time spent writing so far, sum over the threads."""
        self.forward_seconds = 0.0
        """Time that the forwards took on the device so far."""

    def add(self, start: int, tokens: np.ndarray[Any, Any], skipped: Mapping[int, str]) -> None:
        """Add a batch.

        Args:
            start: Row of the first image.
            tokens: Tokens (L, T, b, D).
            skipped: Row -> reason, for the rows that have no image.
        """
        size, rows = self._writer.block_rows, self._writer.rows
        stop = start + tokens.shape[2]
        for block in range(start // size, -(-stop // size)):
            if block not in self._pending:
                continue
            block_start, block_stop = block * size, min((block + 1) * size, rows)
            first, last = max(start, block_start), min(stop, block_stop)
            block_tokens = self._current_buffer(tokens, block_stop - block_start)
            if (partial := self._partials.pop(block, None)) is not None:
                block_tokens[:, :, : partial.rows] = partial.tokens
                self._skipped |= partial.skipped
            block_tokens[:, :, first - block_start : last - block_start] = tokens[
                :, :, first - start : last - start
            ]
            self._skipped |= {row: reason for row, reason in skipped.items() if first <= row < last}
            if last == block_stop:
                self._unsaved = None
                self._finish_block(block, block_tokens)
                self._saved_at = time.monotonic()
                continue
            self._unsaved = block, block_tokens[:, :, : last - block_start]
            if time.monotonic() - self._saved_at >= SAVE_INTERVAL_S:
                self._save_partial()

    def finish(self) -> None:
        """Wait until every block is written, and save the rows of one that is not full.

        Raises the first exception of a write.
        """
        self._save_partial()
        if self._pool is not None:
            self._pool.shutdown()
        while self._uploads:
            self._uploads.popleft().result()

    def _save_partial(self) -> None:
        if self._unsaved is not None:
            (block, tokens), self._unsaved = self._unsaved, None
            self._writer.save_partial(block, tokens, skipped=self._skipped)
            self._saved_at = time.monotonic()

    def _finish_block(self, block: int, tokens: np.ndarray[Any, Any]) -> None:
        skipped, self._skipped = self._skipped, {}
        if self._pool is None:
            self._write(block, tokens, skipped)
            return
        self._uploads.append(self._pool.submit(self._write, block, tokens, skipped))
        self._buffer = (self._buffer + 1) % len(self._buffers)
        if len(self._uploads) == len(self._buffers):  # the next buffer is still being written
            self._uploads.popleft().result()

    def _write(self, block: int, tokens: np.ndarray[Any, Any], skipped: Mapping[int, str]) -> None:
        began = time.perf_counter()
        record = self._writer.write(block, tokens, skipped=skipped)
        with self._lock:
            self.records[block] = record
            self.write_seconds += time.perf_counter() - began

    def _current_buffer(self, tokens: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
        """Return (L, T, rows, D), contiguous, from a reused buffer; allocation is expensive."""
        layers, kinds, _, width = tokens.shape
        buffer = self._buffers[self._buffer]
        if buffer is None:
            size = layers * kinds * self._writer.block_rows * width
            buffer = self._buffers[self._buffer] = np.empty(size, tokens.dtype)
        shape = (layers, kinds, rows, width)
        return buffer[: math.prod(shape)].reshape(shape)


class AsyncWriter:
    """Context manager around the writing thread; on leaving, queued batches are still written."""

    def __init__(self) -> None:
        self._queue: Queue[tuple[BlockAssembler, int, Tokens, Mapping[int, str]] | None] = Queue(
            QUEUE_SIZE
        )
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="layercache-write", daemon=True)

    def put(
        self, blocks: BlockAssembler, start: int, tokens: Tokens, skipped: Mapping[int, str]
    ) -> None:
        """Queue a batch; blocks while the queue is full. Raises what the writing thread raised."""
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
        assemblers: dict[BlockAssembler, None] = {}
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue  # empty the queue, so that `put` does not wait for ever
            blocks, start, tokens, skipped = item
            assemblers[blocks] = None
            try:
                blocks.add(start, tokens.fetch(), skipped)
                blocks.forward_seconds += tokens.release()
            except BaseException as error:
                self._error = error
        for blocks in assemblers:
            try:
                blocks.finish()
            except BaseException as error:
                self._error = self._error or error

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
