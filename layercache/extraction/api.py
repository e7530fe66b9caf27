"""Data set x backbones -> caches: what is missing is extracted, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layercache.cache.cache import load_cache
from layercache.cache.format.layout import planned_bytes
from layercache.engine import open_engine
from layercache.errors import CacheError, OptionError
from layercache.extraction.determinism import deterministic
from layercache.extraction.interruption import telling, terminable
from layercache.extraction.options import ExtractOptions, read_options
from layercache.extraction.plan import (
    ASK_ABOVE,
    ExtractionPlan,
    Target,
    make_plan,
    place,
    size_on_disk,
)
from layercache.extraction.result import Extraction, human
from layercache.extraction.runner import Work, extract_splits, sweep

Say = Callable[[str], object]
Confirm = Callable[[str], bool]


def extract(
    *, say: Say = print, confirm: Confirm | None = None, progress: bool = True, **options: Any
) -> list[Extraction]:
    """Run frozen ViTs over a data set, one forward per image for all layers and tokens, into one cache per model.

    options: the fields of `ExtractOptions`; `models` (a list of names) and `dataset` must be given. Splits that are complete are left
    alone; one that was begun is continued, and ends with the same bytes. say: takes lines for the user, before the work starts.
    confirm: asked before a large cache; without it `yes=True` is needed. progress: a bar on stderr, if that is a terminal.

    Raises OptionError, UnknownNameError, BackboneError, DataError, CacheBusyError, StorageError, NonFiniteError, WorkerError, and
    Interrupted for Ctrl-C; whatever it was, what is committed is kept and the same call continues.
    """
    chosen = read_options(options)
    with deterministic(chosen.deterministic), terminable():
        plan = make_plan(chosen)
        sweep(plan)
        work: dict[str, Work] = {}
        if any(target.todo for target in plan.targets):
            _announce(plan, say)
            _allow(plan, chosen, confirm)
            with (
                telling(lambda: _state(plan)),
                open_engine(chosen.engine, address=chosen.address) as engine,
            ):
                if (gpu := engine.gpu(chosen.device)) is not None:
                    plan = place(plan, chosen, gpu=gpu)
                work = extract_splits(plan, chosen, engine=engine, say=say, progress=progress)
        return [
            _result(plan, target, work.get(target.spec.fingerprint, Work()))
            for target in plan.targets
        ]


def _announce(plan: ExtractionPlan, say: Say) -> None:
    rows = {split: plan.targets[0].spec.dataset.splits[split].rows for split in plan.splits}
    say(f"{plan.dataset.name}: {', '.join(f'{split} {n}' for split, n in rows.items())} images")
    for target in plan.targets:
        spec = target.spec
        size = sum(planned_bytes(spec, rows[split]) for split in plan.splits)
        tokens = f"{_count(len(spec.layers), 'layer')} x {_count(len(spec.tokens), 'token')} x {spec.width} ({spec.tap}, {spec.storage_dtype})"
        missing = (
            ""
            if target.missing_bytes >= size
            else f", {human(target.missing_bytes)} of it still to be written"
        )
        if not target.todo:
            missing = ", complete already"
        elif not target.missing_bytes:  # files whose records are lost or do not fit them
            missing = ", to be repaired"
        say(f"{spec.model}: {tokens}, {human(size)}{missing}: {target.path}")
        for note in target.backbone.notes:
            say(f"  note: {note}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _allow(plan: ExtractionPlan, options: ExtractOptions, confirm: Confirm | None) -> None:
    plan.check_room()
    if plan.missing_bytes <= ASK_ABOVE or options.yes:
        return
    price = f"this writes {human(plan.missing_bytes)}, more than {human(ASK_ABOVE)}"
    if confirm is None:
        raise OptionError(
            f"{price}: say yes with --yes (in Python yes=True), or store less (--layers, --tokens, --limit)"
        )
    if not confirm(f"{price}. Go on?"):
        raise OptionError("nothing was written")


def _state(plan: ExtractionPlan) -> str:
    done = blocks = 0
    for target in plan.targets:
        for split in plan.splits:
            try:
                there, all_ = load_cache(target.path).progress(split)
            except CacheError:
                there, all_ = 0, 1
            done, blocks = done + there, blocks + all_
    return f"{done} of {blocks} row blocks are committed and kept; the same command continues there"


def _result(plan: ExtractionPlan, target: Target, work: Work) -> Extraction:
    cache = load_cache(target.path)
    return Extraction(
        model=target.spec.model,
        dataset=target.spec.dataset.name,
        path=target.path,
        splits=plan.splits,
        rows=sum(target.spec.dataset.splits[split].rows for split in plan.splits),
        skipped=sum(len(cache.split(split).skipped) for split in plan.splits),
        bytes=sum(size_on_disk(target.path, target.spec, split) for split in plan.splits),
        **vars(work),
    )
