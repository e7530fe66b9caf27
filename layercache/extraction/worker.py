"""A worker that extracts row blocks: it holds the backbones, the samples, a decoder and a device, and takes parts of splits as its tasks.

In this process it has the plan's own backbones; elsewhere it makes its own from the options, and looks whether it is the same work there.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from layercache.cache.format.spec import CacheSpec
from layercache.cache.storage.paths import CachePath
from layercache.cache.writing.block_writer import BlockWriter
from layercache.engine import Emit, Progress
from layercache.errors import BackboneError, DataError, DataNotFoundError
from layercache.extraction.datasets.base import Samples
from layercache.extraction.decode_tuning import DecodePlan, choose
from layercache.extraction.determinism import determinism
from layercache.extraction.models.backbone import Backbone
from layercache.extraction.models.preprocessing import Preprocessing
from layercache.extraction.options import ExtractOptions
from layercache.extraction.partition import Part, lane_batches
from layercache.extraction.pipeline.async_writer import BlockAssembler
from layercache.extraction.pipeline.decode import open_image
from layercache.extraction.pipeline.decoder import Decoder
from layercache.extraction.pipeline.forward import FixedBatch, Forward, open_device
from layercache.extraction.pipeline.stream import ModelStream, StageTimings, stream
from layercache.extraction.plan import load


@dataclass(frozen=True, kw_only=True)
class ExtractionJob:
    """What all parts of an extraction have in common. Picklable."""

    options: ExtractOptions
    specs: tuple[CacheSpec, ...]
    """One per model that has something to do, in the order of their fingerprints."""
    samples: Mapping[str, Samples]
    """Of every split that has something to do."""
    root: CachePath
    """Folder of the caches."""
    device: str
    """"cpu" or "cuda"."""
    why_device: str
    """For the user."""
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class BlocksDone:
    """What a part took."""

    times: StageTimings
    decode: float
    """Seconds that decoding was busy."""
    forward: tuple[float, ...]
    """Seconds of each model's forwards."""
    write: tuple[float, ...]
    """Seconds of each model's writes."""


class Extractor:
    """The worker. Its tasks are Parts, their results Dones; tells its choice of decoding and Progress in rows."""

    def __init__(
        self,
        job: ExtractionJob,
        backbones: Sequence[Backbone],
        *,
        tell: Emit,
        cores: int | None = None,
    ) -> None:
        """backbones: one per spec. cores: those that decoding may use; None: all of this process."""
        self._job, self._backbones, self._tell = job, backbones, tell
        self._transforms: list[Preprocessing] = list(
            dict.fromkeys(backbone.preprocessing for backbone in backbones)
        )
        shapes = [(3, *transform.input_size) for transform in self._transforms]
        first = next(iter(job.samples.values()))
        decoding = choose(
            first,
            self._transforms,
            shapes=shapes,
            device=job.device,
            asked=job.options.workers,
            cores=cores,
        )
        tell(_how(job, decoding))
        self._device = open_device(job.device)
        self._decoder: Decoder = decoding.open(shapes=shapes, rows=job.batch_size)

    def __call__(self, part: Part) -> BlocksDone:
        """Commit the part's row blocks, but those that are committed already: the part of a worker that was lost is begun again."""
        job, before = self._job, self._decoder.busy
        lanes = [self._lane(k, part) for k in range(len(job.specs))]
        rows = 0

        def progress(more: int) -> None:
            nonlocal rows
            rows += more
            self._tell(Progress(rows, part.rows))

        times = stream(
            job.samples[part.split],
            lanes=[lane for lane in lanes if lane.batches],
            transforms=self._transforms,
            decoder=self._decoder,
            device=self._device,
            skip=job.options.on_error == "skip",
            progress=progress,
        )
        return BlocksDone(
            times=times,
            decode=self._decoder.busy - before,
            forward=tuple(lane.blocks.forward for lane in lanes),
            write=tuple(lane.blocks.seconds for lane in lanes),
        )

    def close(self) -> None:
        """End decoding."""
        self._decoder.close()

    def _lane(self, k: int, part: Part) -> ModelStream:
        job, backbone = self._job, self._backbones[k]
        writer = BlockWriter(
            job.root,
            job.specs[k],
            part.split,
            ids=job.samples[part.split].ids,
            compressor=job.options.codec,
        )
        pending = writer.pending(part.blocks[k])
        spans, batch = lane_batches(job.specs[k], part.split, pending, batch_size=job.batch_size)
        forward: Forward = FixedBatch(backbone, rows=batch) if job.options.compile else backbone
        blocks = BlockAssembler(_Pending(writer, pending), at_once=writer.store.transfers)
        return ModelStream(
            backbone=forward,
            transform=self._transforms.index(backbone.preprocessing),
            batches=spans,
            blocks=blocks,
        )


class _Pending:
    """A BlockWriter as pipeline.write_behind.Writer wants it, with the blocks of one part."""

    def __init__(self, writer: BlockWriter, pending: tuple[int, ...]) -> None:
        self.rows, self.block_rows, self.write, self.pending = (
            writer.rows,
            writer.block_rows,
            writer.write,
            pending,
        )


@dataclass(frozen=True, kw_only=True)
class RemoteExtractorFactory:
    """Makes an Extractor in another process, perhaps on another machine, which sees the same files."""

    job: ExtractionJob
    readable: Mapping[str, int]
    """A row of every split that can be read where the command runs."""
    folder: str = field(default_factory=os.getcwd)
    """Where relative paths begin."""

    def __call__(self, tell: Emit, cores: int | None) -> Extractor:
        """As many threads compute as the worker asked for cores, which is as many as where the command runs: sums are made in the same order.

        Raises BackboneError, DataNotFoundError, naming the machine, where the weights or the images are others there.
        """
        with suppress(OSError):  # whose paths are absolute does without
            os.chdir(self.folder)
        torch.set_num_threads(cores or torch.get_num_threads())
        determinism(self.job.options.deterministic)
        backbones = [load(self.job.options, spec.model, self.job.device) for spec in self.job.specs]
        here = f"the worker on {socket.gethostname()}"
        for spec, backbone in zip(self.job.specs, backbones, strict=True):
            if backbone.weights_digest != spec.weights:
                raise BackboneError(
                    f"{here} loads other weights for {spec.model}: SHA-256 {backbone.weights_digest[:12]}, expected {spec.weights[:12]}: "
                    "give --weights a file that every machine of the cluster sees"
                )
        for split, row in self.readable.items():
            try:
                open_image(self.job.samples[split], row)
            except DataError as error:
                raise DataNotFoundError(
                    f"{here} does not see the images of split {split!r}: {error}. They must lie at the same place on every machine of the cluster"
                ) from None
        return Extractor(self.job, backbones, tell=tell, cores=cores)


def readable(samples: Mapping[str, Samples], *, tries: int = 5) -> dict[str, int]:
    """A row of every split whose image can be opened, out of the first few."""
    found: dict[str, int] = {}
    for split, some in samples.items():
        for row in range(min(tries, len(some.labels))):
            with suppress(DataError):
                open_image(some, row)
                found[split] = row
                break
    return found


def _how(job: ExtractionJob, decoding: DecodePlan) -> str:
    where = f"{job.device} ({job.why_device}), {job.options.precision}, batches of {job.batch_size}"
    decode = f"{decoding.workers} worker processes" if decoding.workers else "a thread"
    return f"forward on {where}; decoding in {decode} ({decoding.why})"
