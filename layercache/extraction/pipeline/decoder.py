"""Interface of a decoder that runs ahead of the forward, and the decoder that is one thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Empty, Queue
from typing import Any, Protocol

import numpy as np

from layercache.extraction.datasets.base import Samples
from layercache.extraction.pipeline.decode import RowRange, Transform, decode_rows
from layercache.extraction.pipeline.shared_memory import Shape


@dataclass(frozen=True)
class DecodedChunk:
    """Decoded rows of a split."""

    rows: RowRange
    """The rows, which were decoded together."""
    pixels: tuple[np.ndarray[Any, Any], ...]
    """uint8 (rows, 3, H, W) per transform; valid until `release`."""
    failures: dict[int, str]
    """Row -> reason, for the rows that could not be decoded; see `decode_rows`."""
    transparent: int
    """Number of images with transparent pixels."""
    release: Callable[[], None]
    """Gives the memory back; to be called once."""


class Decoder(Protocol):
    """Decodes ahead, into a bounded number of slots."""

    @property
    def busy_seconds(self) -> float:
        """Wall seconds spent decoding so far, by the thread or as mean over the processes."""
        ...

    def run(
        self, samples: Samples, transforms: Sequence[Transform], chunks: Sequence[RowRange]
    ) -> Generator[DecodedChunk, None, None]:
        """Yield the chunks in order. Raises WorkerError."""
        ...

    def close(self) -> None:
        """Stop, abandoning what is in progress."""
        ...


class ThreadDecoder:
    """A decoder in one thread, without start-up or copies, for images that decode in no time."""

    def __init__(self, *, shapes: Sequence[Shape], rows: int, slots: int = 3) -> None:
        """Allocate the slots.

        Args:
            shapes: Output shape of each transform.
            rows: Rows of the longest chunk.
            slots: Chunks that may be decoded and not yet released.
        """
        self.busy_seconds = 0.0
        self._slots = [
            [np.zeros((rows, *shape), np.uint8) for shape in shapes] for _ in range(slots)
        ]
        self._stop = threading.Event()

    def run(
        self, samples: Samples, transforms: Sequence[Transform], chunks: Sequence[RowRange]
    ) -> Generator[DecodedChunk, None, None]:
        """Yield the chunks in order. Raises what the thread raised."""
        free: Queue[list[np.ndarray[Any, Any]]] = Queue()
        for slot in self._slots:
            free.put(slot)
        # unbounded, but never longer than the number of slots and one exception
        ready: Queue[DecodedChunk | BaseException] = Queue()

        def decode() -> None:
            try:
                for chunk in chunks:
                    if (slot := self._wait_for(free)) is None:
                        return
                    began = time.perf_counter()
                    pixels = tuple(array[: chunk.rows] for array in slot)
                    decoded = decode_rows(samples, transforms, chunk, pixels)
                    self.busy_seconds += time.perf_counter() - began
                    release = partial(free.put, slot)
                    ready.put(DecodedChunk(chunk, pixels, *decoded, release))
            except BaseException as error:
                ready.put(error)

        thread = threading.Thread(target=decode, name="layercache-decode", daemon=True)
        thread.start()
        for _ in chunks:
            result = ready.get()
            if isinstance(result, BaseException):
                raise result
            yield result
        thread.join()

    def close(self) -> None:
        """Let the thread end after the current chunk."""
        self._stop.set()

    def _wait_for(
        self, free: Queue[list[np.ndarray[Any, Any]]]
    ) -> list[np.ndarray[Any, Any]] | None:
        """Return a free slot, or None after `close`."""
        while not self._stop.is_set():
            try:
                return free.get(timeout=0.1)
            except Empty:
                continue
        return None
