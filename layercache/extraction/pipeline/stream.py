"""One split through one or several models.

Every image is decoded once, and the row blocks of every model are committed in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from layercache.errors import DataError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.pipeline.async_writer import AsyncWriter, BlockAssembler
from layercache.extraction.pipeline.batching import BatchAssembler, decode_chunks
from layercache.extraction.pipeline.decode import RowRange, Transform
from layercache.extraction.pipeline.decoder import Decoder
from layercache.extraction.pipeline.forward import Device, Forward

MAX_ALL_FAILED = 100
"""Number of images after which a run in which every image failed is ended: something else than the
images is wrong."""


@dataclass(frozen=True, kw_only=True)
class ModelStream:
    """One model's way through the split, to one cache or to two of the same forward."""

    backbone: Forward
    transform: int
    """Index of the model's transform among the decoder's."""
    batches: Sequence[RowRange]
    """The model's batches, ascending."""
    blocks: Sequence[BlockAssembler]
    """Each takes one of the outputs of the forward."""


@dataclass(frozen=True, kw_only=True)
class StreamStats:
    """Counts and notes of a stream."""

    decode_wait: float
    """Wall seconds that the forwarding thread waited for decoded images."""
    write_wait: float
    """Wall seconds that it waited for the writer, at the end of the split included."""
    transparent: int
    """Number of decoded images with transparent pixels."""


def stream(
    samples: Samples,
    *,
    models: Sequence[ModelStream],
    transforms: Sequence[Transform],
    decoder: Decoder,
    device: Device,
    skip_failures: bool,
    on_progress: Callable[[int], object],
) -> StreamStats:
    """Run every batch of every model and write the tokens; after an exception, commits stay.

    Args:
        samples: Samples of the split.
        models: The models, each with its batches.
        transforms: What the decoder applies to every image.
        decoder: Decodes the images.
        device: Runs the forwards.
        skip_failures: Continue without images that cannot be decoded, instead of raising DataError
            at the first in order.
        on_progress: Called with the number of images that were decoded and forwarded since the last
            call.

    Raises:
        DataError: An image cannot be decoded, or with `skip_failures` none of the first
            `MAX_ALL_FAILED` can.
    """
    batches = [model.batches for model in models]
    chunks = decode_chunks(batches)
    assembler = BatchAssembler(batches, [model.transform for model in models])
    decode_wait = write_wait = 0.0
    decoded = failed = transparent = 0
    with AsyncWriter() as writer, closing(decoder.run(samples, transforms, chunks)) as results:
        while True:
            began = time.perf_counter()
            if (chunk := next(results, None)) is None:
                break
            decode_wait += time.perf_counter() - began
            decoded += chunk.rows.rows
            failed += len(chunk.failures)
            transparent += chunk.transparent
            if chunk.failures:
                reason = chunk.failures[min(chunk.failures)]
                if not skip_failures:
                    raise DataError(
                        f"{reason}. on_error='skip' leaves such images out and lists them in the "
                        "cache"
                    )
                if failed == decoded and (decoded >= MAX_ALL_FAILED or chunk.rows == chunks[-1]):
                    raise DataError(
                        f"none of the first {decoded} images can be decoded, so none is skipped; "
                        f"one of them: {reason}"
                    )
            for batch in assembler.add(chunk):
                assert batch.pixels is not None
                images = device.stage(batch.pixels)
                for model in (models[index] for index in batch.models):
                    outputs = device.forward(model.backbone, images)
                    began = time.perf_counter()
                    for blocks, tokens in zip(model.blocks, outputs, strict=True):
                        writer.put(blocks, batch.rows.start, tokens, batch.failures)
                    write_wait += time.perf_counter() - began
            chunk.release()
            on_progress(chunk.rows.rows)
        began = time.perf_counter()
    write_wait += time.perf_counter() - began
    return StreamStats(decode_wait=decode_wait, write_wait=write_wait, transparent=transparent)
