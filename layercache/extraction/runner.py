"""The splits of a plan, through an engine: the locks, the bars and the records that complete a split are here, the work is the workers'."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from tqdm import tqdm

from layercache.cache.writing.split_writer import SplitWriter
from layercache.engine import Engine, Progress, WorkerFactory, WorkerPool
from layercache.errors import CacheBusyError, CacheIncompleteError, StorageError
from layercache.extraction.options import ExtractOptions
from layercache.extraction.partition import Part, cut
from layercache.extraction.plan import ExtractionPlan, Target
from layercache.extraction.worker import (
    BlocksDone,
    ExtractionJob,
    Extractor,
    RemoteExtractorFactory,
    readable,
)

VISIBILITY_TIMEOUT_S = 60.0
"""Seconds in which a file that a worker has written on another machine is seen here: what a network file system's memory may last."""

Say = Callable[[str], object]
Writers = dict[str, list[SplitWriter | None]]
"""split -> the writer of each target, where it has something to do."""


@dataclass
class Work:
    """What was done for one model, over the splits; see result.Extraction."""

    images: int = 0
    seconds: float = 0.0
    decode: float = 0.0
    forward: float = 0.0
    write: float = 0.0
    starved: float = 0.0
    blocked: float = 0.0
    workers: int = 1


def extract_splits(
    plan: ExtractionPlan, options: ExtractOptions, *, engine: Engine, say: Say, progress: bool
) -> dict[str, Work]:
    """Complete every split that is not; returns what was done by fingerprint."""
    # One order of locks in every process, so that two that wait for each other's splits cannot wait for ever.
    targets = sorted(
        (target for target in plan.targets if target.todo),
        key=lambda target: target.spec.fingerprint,
    )
    splits = [split for split in plan.splits if any(split in target.todo for target in targets)]
    work = {target.spec.fingerprint: Work() for target in targets}
    bar = _Bar(show=progress)
    threads = torch.get_num_threads()
    make = _make(plan, options, targets, splits, engine=engine)
    with engine.crew(
        make, gpu=plan.device != "cpu", threads=threads, say=say, heard=bar.heard
    ) as crew:
        for together in [splits] if engine.spreads else [[split] for split in splits]:
            with ExitStack() as stack:
                writers: Writers = {
                    split: [
                        stack.enter_context(_writer(target, split, plan, options, say))
                        if split in target.todo
                        else None
                        for target in targets
                    ]
                    for split in together
                }
                _extract(plan, targets, writers, crew, spreads=engine.spreads, work=work, bar=bar)
    return work


def sweep(plan: ExtractionPlan) -> None:
    """Clean up behind a writer that was killed after its last commit; opening the split for writing does it. One that is busy is not dead."""
    for target in plan.targets:
        for split in target.littered:
            samples = plan.dataset.split(split)
            with (
                suppress(CacheBusyError, StorageError),
                SplitWriter(plan.root, target.spec, split, ids=samples.ids, labels=samples.labels),
            ):
                pass


def _make(
    plan: ExtractionPlan,
    options: ExtractOptions,
    targets: Sequence[Target],
    splits: Sequence[str],
    *,
    engine: Engine,
) -> WorkerFactory:
    job = ExtractionJob(
        options=replace(
            options, dataset=plan.dataset.name
        ),  # what is needed of the set itself is in `samples`
        specs=tuple(target.spec for target in targets),
        samples={split: plan.dataset.split(split) for split in splits},
        root=plan.root,
        device=plan.device,
        why_device=plan.why_device,
        batch_size=plan.batch_size,
    )
    if engine.spreads:
        return RemoteExtractorFactory(job=job, readable=readable(job.samples))
    return lambda tell, cores: Extractor(
        job, [target.backbone for target in targets], tell=tell, cores=cores
    )


def _extract(
    plan: ExtractionPlan,
    targets: Sequence[Target],
    writers: Writers,
    crew: WorkerPool,
    *,
    spreads: bool,
    work: dict[str, Work],
    bar: _Bar,
) -> None:
    """The given splits: all parts of them are with the workers at the same time."""
    specs = [target.spec for target in targets]
    tasks: deque[Part] = deque()
    for split, own in writers.items():
        pending = [writer.pending if writer else () for writer in own]
        tasks += cut(
            specs,
            split,
            pending,
            batch_size=plan.batch_size,
            workers=crew.workers if spreads else None,
        )
    began, busy, count = time.perf_counter(), set[str](), len(tasks)
    rows = {split: targets[0].spec.dataset.splits[split].rows for split in writers}
    with bar.over(
        ", ".join(writers), total=sum(rows.values()), missing=sum(part.rows for part in tasks)
    ):
        for part, done in crew.run(tasks):
            for k, writer in enumerate(writers[part.split]):
                for block in part.blocks[k]:
                    assert writer is not None
                    _adopt(writer, block, patient=spreads)
                if part.blocks[k]:
                    busy.add(specs[k].fingerprint)
                    _add(work[specs[k].fingerprint], k, part, done)
            bar.heard(part, Progress(part.rows, part.rows))
    for own in writers.values():
        for writer in filter(None, own):
            writer.finish()
    for fingerprint in busy:
        work[fingerprint].seconds += time.perf_counter() - began
        work[fingerprint].workers = max(work[fingerprint].workers, min(crew.workers, count))


def _add(work: Work, k: int, part: Part, done: BlocksDone) -> None:
    work.images += part.images[k]
    work.decode += done.decode
    work.forward += done.forward[k]
    work.write += done.write[k]
    work.starved += done.times.starved
    work.blocked += done.times.blocked


def _adopt(writer: SplitWriter, block: int, *, patient: bool) -> None:
    """Take over a block that a worker has written; from another machine it may be seen a little later."""
    deadline = time.monotonic() + VISIBILITY_TIMEOUT_S
    while True:
        try:
            writer.adopt(block)
            return
        except CacheIncompleteError as error:
            if not patient:
                raise
            if time.monotonic() > deadline:
                raise CacheIncompleteError(
                    f"{error}: the folder of the caches must be the same one on every machine of the cluster"
                ) from None
        time.sleep(0.2)


def _writer(
    target: Target, split: str, plan: ExtractionPlan, options: ExtractOptions, say: Say
) -> SplitWriter:
    samples = plan.dataset.split(split)

    def open_(*, wait: bool) -> SplitWriter:
        return SplitWriter(
            plan.root,
            target.spec,
            split,
            ids=samples.ids,
            labels=samples.labels,
            compressor=options.codec,
            wait=wait,
        )

    try:
        return open_(wait=False)
    except CacheBusyError as busy:
        if not options.wait:
            raise
        say(f"waiting: {busy}")
        return open_(wait=True)


class _Bar:
    """A bar on stderr over the images of some splits, if it is a terminal. A part that is begun again moves it where it gets further than before."""

    def __init__(self, *, show: bool) -> None:
        self._show = show
        self._bar: Any = None
        self._seen: dict[Any, int] = {}

    @contextmanager
    def over(self, name: str, *, total: int, missing: int) -> Iterator[None]:
        """The bar, for as long as the context lasts."""
        self._seen = {}
        with tqdm(
            total=total,
            initial=total - missing,
            desc=name,
            unit=" images",
            disable=None if self._show else True,
        ) as self._bar:
            yield
        self._bar = None

    def heard(self, part: Part, message: Progress) -> None:
        """So many rows of a part are done."""
        before = self._seen.get(part, 0)
        if self._bar is not None and message.done > before:
            self._seen[part] = message.done
            self._bar.update(message.done - before)
