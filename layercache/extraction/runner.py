"""Runs the pending splits of a plan on an engine: locks, tasks, progress bar, completion."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from layercache._progress import ProgressBar
from layercache._units import pluralize
from layercache.cache.format.codecs.codec_spec import CodecSpec
from layercache.cache.format.codecs.token_codec import TokenCodec
from layercache.cache.format.layout import SplitLayout
from layercache.cache.origin_records import record_origin
from layercache.cache.writing.codec import store_codec
from layercache.cache.writing.split_writer import SplitWriter
from layercache.engine import Engine, Progress, WorkerFactory, WorkerPool
from layercache.engine.shared_filesystem import wait_until_visible
from layercache.errors import CacheBusyError, CacheIncompleteError
from layercache.extraction.compression.fit_codec import fit_codec
from layercache.extraction.compression.sample import sample_tokens
from layercache.extraction.compression.token_encoder import TokenEncoder
from layercache.extraction.options import ExtractOptions
from layercache.extraction.partition import ExtractionTask, partition
from layercache.extraction.plan import ExtractionPlan, PlannedCache
from layercache.extraction.result import RunStats
from layercache.extraction.worker import (
    BlocksDone,
    ExtractionJob,
    Extractor,
    RemoteExtractorFactory,
    find_readable_rows,
)

Writers = dict[str, list[SplitWriter | None]]
"""Split -> the writer of each target, None where the target's split is complete."""

logger = logging.getLogger(__name__)


def extract_splits(
    plan: ExtractionPlan, options: ExtractOptions, *, engine: Engine, progress: bool
) -> dict[str, RunStats]:
    """Complete every pending split.

    Args:
        plan: What to extract.
        options: Options of the extraction.
        engine: Where the workers run.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        Fingerprint of each cache with pending splits -> what was done for it.
    """
    # All processes lock in one order, so that two which need each other's splits do not deadlock.
    targets = sorted(
        (target for target in plan.targets if target.pending),
        key=lambda target: target.spec.fingerprint,
    )
    splits = [split for split in plan.splits if any(split in t.pending for t in targets)]
    stats = {target.spec.fingerprint: RunStats() for target in targets}
    fit_codecs(plan, options, targets)
    bar = _ImageProgress(show=progress)
    with engine.pool(
        _worker_factory(plan, options, targets, splits, engine=engine),
        gpu=plan.device != "cpu",
        threads=torch.get_num_threads(),
        on_message=bar.on_progress,
    ) as pool:
        for group in [splits] if engine.distributed else [[split] for split in splits]:
            with ExitStack() as stack:
                writers: Writers = {
                    split: [
                        stack.enter_context(_open_writer(target, split, plan, options))
                        if split in target.pending
                        else None
                        for target in targets
                    ]
                    for split in group
                }
                _discard_changed(plan, writers)
                done = _extract(
                    plan, targets, writers, pool, distributed=engine.distributed, bar=bar
                )
                for fingerprint, group_stats in done.items():
                    stats[fingerprint] += group_stats
    return stats


def fit_codecs(
    plan: ExtractionPlan, options: ExtractOptions, targets: Sequence[PlannedCache]
) -> None:
    """Give every backbone the codec of its cache, which is fitted if none is stored yet.

    Raises:
        DataError: An image of the sample cannot be decoded.
        CacheCorruptError: The stored codec is damaged, or lost although codes are committed.
    """
    for target in targets:
        name, backbone = target.spec.codec, target.backbone
        if name is None:
            continue

        def fit(target: PlannedCache = target, name: str = name) -> TokenCodec:
            transform = target.backbone.preprocessing
            began = time.perf_counter()
            sample = sample_tokens(
                plan.dataset,
                target.backbone,
                transform=transform,
                shape=(3, *transform.input_size),
                skip_failures=options.on_error == "skip",
            )
            codec = fit_codec(CodecSpec.parse(name), sample)
            logger.info(
                "%s: %s fitted on %d images of split %s in %.1f s",
                target.path,
                name,
                sample.images,
                sample.split,
                time.perf_counter() - began,
            )
            return codec

        backbone.token_encoder = TokenEncoder(
            store_codec(plan.root, target.spec, fit), backbone.device
        )


def _worker_factory(
    plan: ExtractionPlan,
    options: ExtractOptions,
    targets: Sequence[PlannedCache],
    splits: Sequence[str],
    *,
    engine: Engine,
) -> WorkerFactory:
    job = ExtractionJob(
        options=replace(options, dataset=plan.dataset.name),  # `samples` holds the dataset's part
        models=tuple(target.model for target in targets),
        specs=tuple(target.spec for target in targets),
        samples={split: plan.dataset.split(split) for split in splits},
        root=plan.root,
        device=plan.device,
        device_reason=plan.device_reason,
        batch_size=plan.batch_size,
    )
    if engine.distributed:
        return RemoteExtractorFactory(job=job, readable_rows=find_readable_rows(job.samples))
    backbones = [target.backbone for target in targets]
    return lambda emit, cores: Extractor(job, backbones, emit=emit, cores=cores)


def _extract(
    plan: ExtractionPlan,
    targets: Sequence[PlannedCache],
    writers: Writers,
    pool: WorkerPool,
    *,
    distributed: bool,
    bar: _ImageProgress,
) -> dict[str, RunStats]:
    """Complete the given splits, with all their tasks in the pool at the same time."""
    specs = [target.spec for target in targets]
    workers = pool.workers if distributed else None
    # Another machine may have written to a folder of its own that only has the same name.
    read_back = distributed and isinstance(plan.root, Path)
    tasks: deque[ExtractionTask] = deque()
    for split, split_writers in writers.items():
        pending = [writer.pending if writer else () for writer in split_writers]
        tasks += partition(specs, split, pending, batch_size=plan.batch_size, workers=workers)
    num_tasks, began = len(tasks), time.perf_counter()
    rows = sum(specs[0].dataset.splits[split].rows for split in writers)
    pending_rows = sum(task.rows for task in tasks)
    stats: dict[str, RunStats] = {}
    with bar.open(", ".join(writers), total=rows, initial=rows - pending_rows):
        task: ExtractionTask
        done: BlocksDone
        for task, done in pool.run(tasks):
            for model, writer in enumerate(writers[task.split]):
                if writer is None or not task.blocks[model]:
                    continue
                for block in task.blocks[model]:
                    if read_back:
                        _adopt_when_visible(writer, block)
                    else:
                        writer.adopt(block, done.records[model][block])
                fingerprint = specs[model].fingerprint
                stats[fingerprint] = stats.get(fingerprint, RunStats()) + done.stats[model]
            bar.on_progress(task, Progress(task.rows, task.rows))
    for split_writers in writers.values():
        for writer in filter(None, split_writers):
            writer.finish()
    seconds = time.perf_counter() - began
    return {
        fingerprint: replace(total, seconds=seconds, workers=min(pool.workers, num_tasks))
        for fingerprint, total in stats.items()
    }


def _adopt_when_visible(writer: SplitWriter, block: int) -> None:
    """Adopt a block that another machine has written, once it is visible here."""
    missing = ""

    def adopt() -> bool | None:
        nonlocal missing
        try:
            writer.adopt(block)
        except CacheIncompleteError as error:
            missing = str(error)
            return None
        return True

    if wait_until_visible(adopt, distributed=True) is None:
        raise CacheIncompleteError(
            f"{missing}: the folder of the caches must be the same one on every machine of the "
            "cluster"
        )


def _open_writer(
    target: PlannedCache, split: str, plan: ExtractionPlan, options: ExtractOptions
) -> SplitWriter:
    samples = plan.dataset.split(split)

    def open_writer(*, wait: bool) -> SplitWriter:
        return SplitWriter(
            plan.root,
            target.spec,
            split,
            ids=samples.ids,
            compressor=options.compressor,
            wait=wait,
        )

    try:
        writer = open_writer(wait=False)
    except CacheBusyError as busy:
        if not options.wait_for_lock:
            raise
        logger.info("waiting: %s", busy)
        writer = open_writer(wait=True)
    record_origin(
        target.path, target.origin, temporary=SplitLayout(target.spec, split).partial
    )  # under the lock of the split
    plan.record_label(target)
    return writer


def _discard_changed(plan: ExtractionPlan, writers: Writers) -> None:
    """Discard committed blocks of images that were modified since the extraction began.

    Only where the fingerprint cannot detect the change, since it covers the images' sizes alone.
    """
    for split, split_writers in writers.items():
        mtimes = getattr(plan.dataset.split(split), "mtimes", None)
        if mtimes is None:
            continue
        for writer in filter(None, split_writers):
            if discarded := writer.discard_changed(mtimes):
                logger.info(
                    "%s: %s of split %r with images that were modified since: extracted again",
                    writer.path,
                    pluralize(discarded, "row block"),
                    split,
                )


class _ImageProgress:
    """Progress in images.

    A retried task moves it only when it gets further than before.
    """

    def __init__(self, *, show: bool) -> None:
        self._show = show
        self._bar: ProgressBar | None = None
        self._done: dict[ExtractionTask, int] = {}

    @contextmanager
    def open(self, name: str, *, total: int, initial: int) -> Iterator[None]:
        """Show the progress within the context."""
        self._done = {}
        with ProgressBar(
            name, unit="images", total=total, done=initial, show=self._show
        ) as self._bar:
            yield
        self._bar = None

    def on_progress(self, task: ExtractionTask, message: Progress) -> None:
        """Advance to the number of rows done of a task."""
        before = self._done.get(task, 0)
        if self._bar is not None and message.done > before:
            self._done[task] = message.done
            self._bar.advance(message.done - before)
