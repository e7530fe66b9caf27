"""One split through one or several backbones: every image decoded once, every model's row blocks committed in order.

L layers, T token kinds, b images of a batch, D width.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from layercache.errors import DataError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.pipeline.async_writer import AsyncWriter, BlockAssembler
from layercache.extraction.pipeline.batching import RowRange, pieces
from layercache.extraction.pipeline.decode_rows import Transform
from layercache.extraction.pipeline.decoder import Decoded, Decoder
from layercache.extraction.pipeline.forward import Device, Forward

HOPELESS = 100
"""Images; when all of so many cannot be decoded, something else than the images is wrong."""


@dataclass(frozen=True, kw_only=True)
class ModelStream:
    """One model's way through the split."""

    backbone: Forward
    transform: int
    """Which of the decoder's transforms it wants."""
    batches: Sequence[RowRange]
    """Its batches, ascending."""
    blocks: BlockAssembler
    """Where its tokens go."""


@dataclass(frozen=True, kw_only=True)
class StageTimings:
    """Wall seconds of a stream, as the forwarding thread saw them."""

    total: float
    starved: float
    """Waiting for decoded images."""
    blocked: float
    """Waiting for the writer, at the end too."""
    images: int
    """Decoded."""


def stream(
    samples: Samples,
    *,
    lanes: Sequence[ModelStream],
    transforms: Sequence[Transform],
    decoder: Decoder,
    device: Device,
    skip: bool,
    progress: Callable[[int], object],
) -> StageTimings:
    """Run every batch of every lane. `skip`: go on without images that cannot be decoded; else DataError at the first, in order.

    What is committed before an exception stays. Calls `progress` with the number of images that a piece held.
    """
    todo = pieces([lane.batches for lane in lanes])
    waiting, open_ = deque(_gathers(lanes)), list[_Gather]()
    began = time.perf_counter()
    starved = blocked = 0.0
    images = lost = 0
    with AsyncWriter() as behind, closing(decoder.run(samples, transforms, todo)) as decoded:
        while True:
            asked = time.perf_counter()
            if (got := next(decoded, None)) is None:
                break
            starved += time.perf_counter() - asked
            if got.failed and not skip:
                raise DataError(
                    f"{got.failed[min(got.failed)]}. --on-error skip leaves such images out and lists them in the cache"
                )
            images, lost = images + got.piece.rows, lost + len(got.failed)
            if lost == images and (images >= HOPELESS or got.piece == todo[-1]):
                raise DataError(
                    f"none of the first {images} images can be decoded, which is no case for skipping; one of them: {got.failed[min(got.failed)]}"
                )
            while waiting and waiting[0].start <= got.piece.start:
                open_.append(waiting.popleft())
            for gather in open_:
                if (pixels := gather.take(got)) is None:
                    continue
                staged = device.stage(pixels)
                for lane in gather.lanes:
                    tokens = device.forward(lane.backbone, staged)
                    asked = time.perf_counter()
                    behind.put(lane.blocks, gather.start, tokens, gather.failed)
                    blocked += time.perf_counter() - asked
            open_ = [gather for gather in open_ if gather.stop > got.piece.stop]
            got.release()
            progress(got.piece.rows)
        asked = time.perf_counter()
    ended = time.perf_counter()
    return StageTimings(
        total=ended - began, starved=starved, blocked=blocked + ended - asked, images=images
    )


@dataclass
class _Gather:
    """A batch of one transform that is being put together from pieces, for every lane that has this batch."""

    transform: int
    start: int
    stop: int
    lanes: list[ModelStream] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    pixels: np.ndarray[Any, Any] | None = None

    def take(self, got: Decoded) -> np.ndarray[Any, Any] | None:
        """Add a piece; the whole batch's pixels (b, 3, H, W) if it was the last. A batch that is one piece is not copied."""
        piece, part = got.piece, got.pixels[self.transform]
        self.failed |= got.failed
        if (piece.start, piece.stop) == (self.start, self.stop):
            return part
        if self.pixels is None:
            self.pixels = np.empty((self.stop - self.start, *part.shape[1:]), part.dtype)
        self.pixels[piece.start - self.start : piece.stop - self.start] = part
        return self.pixels if piece.stop == self.stop else None


def _gathers(lanes: Sequence[ModelStream]) -> list[_Gather]:
    found: dict[tuple[int, int, int], _Gather] = {}
    for lane in lanes:
        for start, stop in lane.batches:
            found.setdefault(
                (start, stop, lane.transform), _Gather(lane.transform, start, stop)
            ).lanes.append(lane)
    return [found[key] for key in sorted(found)]
