"""What the forward sees of decoding: pieces of pixels, in order. And the decoder that is a thread of this process."""

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
from layercache.extraction.pipeline.batching import DecodeChunk
from layercache.extraction.pipeline.decode_rows import Transform, decode_rows
from layercache.extraction.pipeline.shared_memory import Shape


@dataclass(frozen=True)
class Decoded:
    """One piece, decoded."""

    piece: DecodeChunk
    pixels: tuple[np.ndarray[Any, Any], ...]
    """uint8 (rows, 3, H, W) per transform; valid until `release`."""
    failed: dict[int, str]
    """row -> reason, for the rows that could not be decoded."""
    release: Callable[[], None]
    """Gives the memory back; to be called once."""


class Decoder(Protocol):
    """Decodes ahead, into a bounded number of slots."""

    @property
    def busy(self) -> float:
        """Wall seconds of decoding so far: of the thread, or the mean over the workers."""
        ...

    def run(
        self, samples: Samples, transforms: Sequence[Transform], pieces: Sequence[DecodeChunk]
    ) -> Generator[Decoded, None, None]:
        """The pieces in order. Raises WorkerError."""
        ...

    def close(self) -> None:
        """Stop, whatever is under way."""
        ...


class ThreadDecoder:
    """One thread. Right where decoding is next to nothing: no start-up, no copies between processes."""

    def __init__(self, *, shapes: Sequence[Shape], rows: int, slots: int = 3) -> None:
        """`rows`: the longest piece; `shapes`: what each transform gives."""
        self.busy = 0.0
        self._slots = [
            [np.zeros((rows, *shape), np.uint8) for shape in shapes] for _ in range(slots)
        ]
        self._stop = threading.Event()

    def run(
        self, samples: Samples, transforms: Sequence[Transform], pieces: Sequence[DecodeChunk]
    ) -> Generator[Decoded, None, None]:
        """The pieces in order. An exception of the thread is raised here."""
        free: Queue[list[np.ndarray[Any, Any]]] = Queue()
        ready: Queue[Decoded | BaseException] = (
            Queue()
        )  # never fuller than there are slots, and one exception
        for slot in self._slots:
            free.put(slot)

        def decode() -> None:
            try:
                for piece in pieces:
                    if (slot := self._get(free)) is None:
                        return
                    began = time.perf_counter()
                    pixels = [part[: piece.rows] for part in slot]
                    failed = decode_rows(samples, transforms, pixels, piece.start, piece.stop)
                    self.busy += time.perf_counter() - began
                    ready.put(Decoded(piece, tuple(pixels), failed, partial(free.put, slot)))
            except BaseException as error:
                ready.put(error)

        thread = threading.Thread(target=decode, name="layercache-decode", daemon=True)
        thread.start()
        for _ in pieces:
            got = ready.get()
            if isinstance(got, BaseException):
                raise got
            yield got
        thread.join()

    def _get(self, free: Queue[list[np.ndarray[Any, Any]]]) -> list[np.ndarray[Any, Any]] | None:
        while not self._stop.is_set():
            try:
                return free.get(timeout=0.1)
            except Empty:
                continue
        return None

    def close(self) -> None:
        """Let the thread end after the piece at hand."""
        self._stop.set()
