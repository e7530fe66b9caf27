"""The splits of a plan, one after the other, through one decoder and one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from tqdm import tqdm

from layercache.cache.writer import SplitWriter
from layercache.errors import CacheBusyError, StorageError
from layercache.extraction.options import ExtractOptions
from layercache.extraction.pipeline.batches import batch_rows, batches, pieces
from layercache.extraction.pipeline.decoders import Decoder
from layercache.extraction.pipeline.device import Device, Forward, Padded, open_device
from layercache.extraction.pipeline.stream import Lane, Times, stream
from layercache.extraction.pipeline.write_behind import Blocks
from layercache.extraction.plan import Plan, Target
from layercache.extraction.preprocess import Preprocessing
from layercache.extraction.workers import Decoding, choose


@dataclass
class Work:
    """What was done for one model, over the splits."""

    blocks: list[Blocks] = field(default_factory=list)
    images: int = 0
    times: list[Times] = field(default_factory=list)
    decode: float = 0.0


def extract_splits(plan: Plan, options: ExtractOptions, *, say: Callable[[str], object], progress: bool) -> dict[str, Work]:
    """Complete every split that is not; returns what was done by fingerprint."""
    work = {target.spec.fingerprint: Work() for target in plan.targets}
    # One order of locks in every process, so that two that wait for each other's splits cannot wait for ever.
    targets = sorted((target for target in plan.targets if target.todo), key=lambda target: target.spec.fingerprint)
    transforms = list(dict.fromkeys(target.backbone.preprocessing for target in targets))
    shapes = [(3, *transform.input_size) for transform in transforms]
    splits = [split for split in plan.splits if any(split in target.todo for target in targets)]
    decoding = choose(plan.dataset.open(splits[0]), transforms, shapes=shapes, device=plan.device, asked=options.workers)
    say(_how(plan, options, decoding))
    device = open_device(plan.device)
    decoder = decoding.open(shapes=shapes, rows=plan.batch_size)
    try:
        for split in splits:
            here = [target for target in targets if split in target.todo]
            with ExitStack() as stack:
                writers = [stack.enter_context(_writer(target, split, plan, options, say)) for target in here]
                _extract_split(split, here, writers, transforms, plan, options, decoder=decoder, device=device, work=work, progress=progress)
    finally:
        decoder.close()
    return work


def sweep(plan: Plan) -> None:
    """Clean up behind a writer that was killed after its last commit; opening the split for writing does it. One that is busy is not dead."""
    for target in plan.targets:
        for split in target.littered:
            samples = plan.dataset.open(split)
            with suppress(CacheBusyError, StorageError), SplitWriter(plan.root, target.spec, split, ids=samples.ids, labels=samples.labels):
                pass


def _extract_split(
    split: str,
    targets: Sequence[Target],
    writers: Sequence[SplitWriter],
    transforms: Sequence[Preprocessing],
    plan: Plan,
    options: ExtractOptions,
    *,
    decoder: Decoder,
    device: Device,
    work: dict[str, Work],
    progress: bool,
) -> None:
    samples = plan.dataset.open(split)
    lanes = [
        _lane(target, writer, transforms.index(target.backbone.preprocessing), plan, compiled=options.compile)
        for target, writer in zip(targets, writers, strict=True)
    ]
    running = [lane for lane in lanes if lane.batches]
    rows, missing = len(samples.labels), sum(piece.rows for piece in pieces([lane.batches for lane in running]))
    before = decoder.busy
    with tqdm(total=rows, initial=rows - missing, desc=split, unit=" images", disable=None if progress else True) as bar:
        times = stream(
            samples, lanes=running, transforms=transforms, decoder=decoder, device=device, skip=options.on_error == "skip", progress=bar.update
        )
    for target, writer, lane in zip(targets, writers, lanes, strict=True):
        writer.finish()
        if lane.batches:
            done = work[target.spec.fingerprint]
            done.blocks.append(lane.blocks)
            done.images += sum(stop - start for start, stop in lane.batches)
            done.times.append(times)
            done.decode += decoder.busy - before


def _writer(target: Target, split: str, plan: Plan, options: ExtractOptions, say: Callable[[str], object]) -> SplitWriter:
    samples = plan.dataset.open(split)

    def open_(*, wait: bool) -> SplitWriter:
        return SplitWriter(plan.root, target.spec, split, ids=samples.ids, labels=samples.labels, codec=options.codec, wait=wait)

    try:
        return open_(wait=False)
    except CacheBusyError as busy:
        if not options.wait:
            raise
        say(f"waiting: {busy}")
        return open_(wait=True)


def _lane(target: Target, writer: SplitWriter, transform: int, plan: Plan, *, compiled: bool) -> Lane:
    spec = target.spec
    row_bytes = len(spec.layers) * len(spec.tokens) * spec.width * (2 if spec.store_dtype == "float16" else 4)
    batch = batch_rows(plan.batch_size, block=writer.block_rows, row_bytes=row_bytes)
    backbone: Forward = Padded(target.backbone, rows=batch) if compiled else target.backbone
    spans = batches(writer.rows, block=writer.block_rows, batch=batch, pending=writer.pending)
    return Lane(backbone=backbone, transform=transform, batches=spans, blocks=Blocks(writer, at_once=writer.uploads))


def _how(plan: Plan, options: ExtractOptions, decoding: Decoding) -> str:
    where = f"{plan.device} ({plan.why_device}), {options.precision}, batches of {plan.batch_size}"
    decode = f"{decoding.workers} worker processes" if decoding.workers else "a thread"
    return f"forward on {where}; decoding in {decode} ({decoding.why})"
