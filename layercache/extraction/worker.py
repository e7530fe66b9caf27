"""A worker that runs ExtractionTasks: it holds the backbones, the samples, a decoder and a device.

In this process it has the plan's own backbones. On a cluster `RemoteExtractorFactory` loads them
from the options, and checks that weights and images are the same there.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from layercache.cache.format.cache_spec import CacheSpec
from layercache.cache.format.records import BlockRecord
from layercache.cache.storage.paths import CachePath
from layercache.cache.writing.block_writer import BlockWriter
from layercache.cache.writing.codec import read_codec
from layercache.engine import Emit, Progress
from layercache.engine.worker_process import enter_worker_process
from layercache.errors import BackboneError, DataError, DataNotFoundError
from layercache.extraction.compression.token_encoder import TokenEncoder
from layercache.extraction.datasets.base import Samples
from layercache.extraction.decode_tuning import DecodePlan, plan_decoding
from layercache.extraction.determinism import use_deterministic_algorithms
from layercache.extraction.models.backbone import Backbone, JointForward
from layercache.extraction.models.encoder import Encoder
from layercache.extraction.models.preprocessing.transform import Preprocessing
from layercache.extraction.options import ExtractOptions, model_name
from layercache.extraction.partition import ExtractionTask, model_batches
from layercache.extraction.pipeline.async_writer import BlockAssembler
from layercache.extraction.pipeline.batching import decode_chunks, drop_saved
from layercache.extraction.pipeline.decode import RowRange, open_image
from layercache.extraction.pipeline.forward import FixedBatch, Forward, open_device
from layercache.extraction.pipeline.stream import ModelStream, stream
from layercache.extraction.plan import load_model
from layercache.extraction.result import RunStats

logger = logging.getLogger(__name__)

MAX_TRIED_ROWS = 5
"""Rows of a split of which one must be readable for the test of an image on a worker."""


@dataclass(frozen=True, kw_only=True)
class ExtractionJob:
    """Settings shared by all tasks of an extraction. Picklable."""

    options: ExtractOptions
    models: tuple[str | Encoder, ...]
    """The models of `specs`, as requested; the same one twice if it has two caches."""
    specs: tuple[CacheSpec, ...]
    """One per cache with pending splits, in the order of their fingerprints."""
    samples: Mapping[str, Samples]
    """Samples of every pending split."""
    root: CachePath
    """Folder of all caches."""
    device: str
    """"cpu", "cuda" or "mps"."""
    device_reason: str
    """Why this device was chosen, for the user."""
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class BlocksDone:
    """Result of a task."""

    records: tuple[Mapping[int, BlockRecord], ...]
    """Commit records of each cache's row blocks, by number."""
    stats: tuple[RunStats, ...]
    """Stage timings of each cache."""


class Extractor:
    """Worker that commits the row blocks of its tasks; logs its setup, emits Progress in rows."""

    def __init__(
        self,
        job: ExtractionJob,
        backbones: Sequence[Backbone],
        *,
        emit: Emit,
        cores: int | None = None,
        retried: bool = False,
    ) -> None:
        """Choose how to decode and start the decoder.

        Args:
            job: What all tasks have in common.
            backbones: One per spec of the job.
            emit: Takes Progress.
            cores: Number of cores that decoding may use; None: all of this process.
            retried: Whether a task may be the retry of one whose worker was lost after it had
                committed some of the blocks.
        """
        self._job, self._backbones, self._emit, self._retried = job, backbones, emit, retried
        self._transforms: list[Preprocessing] = list(
            dict.fromkeys(backbone.preprocessing for backbone in backbones)
        )
        shapes = [(3, *transform.input_size) for transform in self._transforms]
        decoding = plan_decoding(
            next(iter(job.samples.values())),
            self._transforms,
            shapes=shapes,
            device=job.device,
            workers=job.options.workers,
            cores=cores,
        )
        logger.info("%s", _describe(job, decoding))
        self._device = open_device(job.device)
        self._forwards: dict[tuple[int, ...], Forward] = {}
        """Forwards by the backbones that share them; compiled once."""
        self._decoder = decoding.open_decoder(shapes=shapes, rows=job.batch_size)

    def __call__(self, task: ExtractionTask) -> BlocksDone:
        """Commit the task's row blocks."""
        job, busy_before = self._job, self._decoder.busy_seconds
        outputs = [self._output(index, task) for index in range(len(job.specs))]
        # caches of one module share its forward
        groups: dict[int, list[_Output]] = {}
        for output in outputs:
            if output.batches:
                groups.setdefault(id(output.backbone.module), []).append(output)
        models = [self._model_stream(group) for group in groups.values()]
        # a task's rows are all those of its blocks; some may be saved from an earlier run
        done = task.rows - sum(
            chunk.rows for chunk in decode_chunks([model.batches for model in models])
        )
        if done:
            self._emit(Progress(done, task.rows))

        def on_progress(rows: int) -> None:
            nonlocal done
            done += rows
            self._emit(Progress(done, task.rows))

        stream_stats = stream(
            job.samples[task.split],
            models=models,
            transforms=self._transforms,
            decoder=self._decoder,
            device=self._device,
            skip_failures=job.options.on_error == "skip",
            on_progress=on_progress,
        )
        stats = tuple(
            RunStats(
                images=sum(batch.rows for batch in output.batches),
                decode_seconds=self._decoder.busy_seconds - busy_before,
                forward_seconds=output.blocks.forward_seconds,
                write_seconds=output.blocks.write_seconds,
                decode_wait_seconds=stream_stats.decode_wait,
                write_wait_seconds=stream_stats.write_wait,
                transparent=stream_stats.transparent,
            )
            for output in outputs
        )
        return BlocksDone(
            records=tuple(output.committed | output.blocks.records for output in outputs),
            stats=stats,
        )

    def close(self) -> None:
        """End decoding."""
        self._decoder.close()

    def _output(self, index: int, task: ExtractionTask) -> _Output:
        """Return what a task has to do for one cache."""
        job, spec, blocks = self._job, self._job.specs[index], task.blocks[index]
        writer = BlockWriter(
            job.root,
            spec,
            task.split,
            ids=job.samples[task.split].ids,
            compressor=job.options.compressor,
        )
        committed = writer.committed(blocks) if self._retried else {}
        pending = [block for block in blocks if block not in committed]
        batches, batch = model_batches(spec, task.split, pending, batch_size=job.batch_size)
        # batches must be cut as in an uninterrupted run, so that the bytes are the same
        partials = {
            block: partial.first(rows, start=block * writer.block_rows)
            for block, partial in writer.read_partials(pending).items()
            if (rows := partial.rows // batch * batch)
        }
        saved_rows = {block: partial.rows for block, partial in partials.items()}
        return _Output(
            backbone=self._backbones[index],
            committed=committed,
            batches=drop_saved(batches, saved_rows, block_rows=writer.block_rows),
            batch=batch,
            blocks=BlockAssembler(
                writer, pending=pending, partials=partials, max_uploads=writer.store.transfers
            ),
        )

    def _model_stream(self, outputs: Sequence[_Output]) -> ModelStream:
        """Return the stream of caches that share a forward; their batches are cut alike."""
        compiled = self._job.options.compile
        backbones = tuple(output.backbone for output in outputs)
        key = tuple(map(id, backbones))
        if key not in self._forwards:
            self._forwards[key] = JointForward(backbones, compile=compiled)
        forward = self._forwards[key]
        if compiled:
            forward = FixedBatch(forward, rows=outputs[0].batch)
        return ModelStream(
            backbone=forward,
            transform=self._transforms.index(outputs[0].backbone.preprocessing),
            batches=sorted({batch for output in outputs for batch in output.batches}),
            blocks=[output.blocks for output in outputs],
        )


@dataclass(frozen=True, kw_only=True)
class _Output:
    """Rows that a task computes for one cache, and where they go."""

    backbone: Backbone
    committed: dict[int, BlockRecord]
    """Records of its blocks that are committed already."""
    batches: Sequence[RowRange]
    """Batches to run, ascending."""
    batch: int
    """Rows of a full batch."""
    blocks: BlockAssembler


@dataclass(frozen=True, kw_only=True)
class RemoteExtractorFactory:
    """Makes an Extractor in another process, perhaps on another machine with the same files."""

    job: ExtractionJob
    readable_rows: Mapping[str, int]
    """A row of every split whose image can be opened on the machine where the command runs."""
    folder: str = field(default_factory=os.getcwd)
    """Folder that relative paths start from."""

    def __call__(self, emit: Emit, cores: int | None) -> Extractor:
        """Return an Extractor.

        As many threads compute as the worker has cores, which is as many as where the command runs:
        sums are then made in the same order.

        Raises:
            BackboneError: The weights differ on this machine; the message names it.
            DataNotFoundError: The images are not on this machine; the message names it.
        """
        enter_worker_process(folder=self.folder, cores=cores)
        options = self.job.options
        if options.deterministic:
            use_deterministic_algorithms()
        backbones = load_backbones(self.job)
        host = f"the worker on {socket.gethostname()}"
        for spec, backbone in zip(self.job.specs, backbones, strict=True):
            if backbone.weights_digest != spec.weights:
                raise BackboneError(
                    f"{host} loads other weights for {spec.model}: expected SHA-256 "
                    f"{spec.weights[:12]}, got {backbone.weights_digest[:12]}: give `weights` a "
                    "file that every machine of the cluster sees"
                )
        for split, row in self.readable_rows.items():
            try:
                open_image(self.job.samples[split], row)
            except DataError as error:
                raise DataNotFoundError(
                    f"{host} does not see the images of split {split!r}: {error}. "
                    "They must be at the same place on every machine of the cluster"
                ) from None
        return Extractor(self.job, backbones, emit=emit, cores=cores, retried=True)


def load_backbones(job: ExtractionJob) -> list[Backbone]:
    """Return the backbone of each cache, each model loaded once, with the stored codecs."""
    loaded: dict[str, Backbone] = {}
    backbones = []
    for model, spec in zip(job.models, job.specs, strict=True):
        name = model_name(model)
        if name not in loaded:
            loaded[name] = load_model(job.options, model, job.device)
        backbone = next(
            backbone
            for backbone in (loaded[name], loaded[name].spatial)
            if backbone is not None
            and (backbone.layers, backbone.tokens) == (spec.layers, spec.tokens)
        )
        if spec.codec is not None and (codec := read_codec(job.root, spec)) is not None:
            backbone.token_encoder = TokenEncoder(codec, backbone.device)
        backbones.append(backbone)
    return backbones


def find_readable_rows(samples: Mapping[str, Samples]) -> dict[str, int]:
    """Return a row of every split whose image can be opened, out of the first few rows."""
    readable: dict[str, int] = {}
    for split, split_samples in samples.items():
        for row in range(min(MAX_TRIED_ROWS, len(split_samples.labels))):
            with suppress(DataError):
                open_image(split_samples, row)
                readable[split] = row
                break
    return readable


def _describe(job: ExtractionJob, decoding: DecodePlan) -> str:
    device = f"{job.device} ({job.device_reason})"
    decoder = f"{decoding.workers} worker processes" if decoding.workers else "a thread"
    return (
        f"forward on {device}, {job.options.precision}, batches of {job.batch_size}; "
        f"decoding in {decoder} ({decoding.reason})"
    )
