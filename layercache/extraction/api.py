"""The public `extract`: a dataset and backbones to caches; only what is missing is extracted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from layercache._interruption import reraise_interrupt, sigterm_as_interrupt
from layercache._options import read_options
from layercache._units import format_bytes, pluralize
from layercache.cache.cache import load_cache
from layercache.cache.format.layout import planned_bytes
from layercache.cache.origins import record_origin
from layercache.engine import cluster_device, open_engine
from layercache.errors import CacheError, OptionError
from layercache.extraction.datasets import describe_dataset
from layercache.extraction.determinism import deterministic
from layercache.extraction.options import ExtractOptions, with_lists
from layercache.extraction.plan import ExtractionPlan, Target, assign_device, make_plan
from layercache.extraction.result import Extraction, RunStats
from layercache.extraction.resume import remove_leftovers, saved_rows, size_on_disk
from layercache.extraction.runner import extract_splits

Confirm = Callable[[str], bool]

logger = logging.getLogger(__name__)


def extract(
    *,
    confirm: Confirm | bool = True,
    confirm_above: int = 20 << 30,
    progress: bool = True,
    **options: Any,
) -> list[Extraction]:
    """Run frozen ViTs over a dataset, one forward per image, into one cache per model.

    Complete splits are left alone; an interrupted one is continued and ends with the same bytes.
    Classes, left-out files, sizes, device and decoding are logged before the work starts.

    Args:
        confirm: Whether a large cache needs confirmation: a function that is called with the
            question, True to raise OptionError, False to write it without asking.
        confirm_above: Bytes to be written above which a cache is large.
        progress: Whether to show a progress bar on stderr, if that is a terminal.
        **options: The fields of `ExtractOptions`; `models` and `dataset` are required. A single
            model, split, layer number or checkpoint needs no list.

    Returns:
        One Extraction per model, in the order of `models`.

    Raises:
        LayercacheError: OptionError, UnknownNameError, BackboneError, DataError, CacheBusyError,
            StorageError, NonFiniteError or WorkerError. What is committed is kept and the same call
            continues.
        Interrupted: Ctrl-C or SIGTERM. What is committed is kept and the same call continues.
    """
    chosen = read_options(ExtractOptions, with_lists(options), function="extract")
    with deterministic(chosen.deterministic), sigterm_as_interrupt():
        plan = make_plan(chosen)
        for target in plan.targets:
            if not target.pending:
                record_origin(target.path, target.origin)
                plan.record_label(target)
            for split in target.leftovers:
                remove_leftovers(plan.root, target.spec, split, plan.dataset.split(split))
        stats: dict[str, RunStats] = {}
        if any(target.pending for target in plan.targets):
            _log_plan(plan)
            plan.check_free_space()
            _confirm(plan, confirm, above=confirm_above)
            with (
                reraise_interrupt(lambda: _describe_progress(plan)),
                open_engine(chosen.engine, ray_address=chosen.ray_address) as engine,
            ):
                if (choice := cluster_device(engine, chosen.device)) is not None:
                    device, reason = choice
                    plan = assign_device(plan, chosen, device=device, reason=reason)
                stats = extract_splits(plan, chosen, engine=engine, progress=progress)
        return [
            _result(plan, target, stats.get(target.spec.fingerprint, RunStats()))
            for target in plan.targets
        ]


def _log_plan(plan: ExtractionPlan) -> None:
    rows = {split: plan.targets[0].spec.dataset.splits[split].rows for split in plan.splits}
    splits = ", ".join(f"{split} {n}" for split, n in rows.items())
    logger.info("%s: %s images", plan.dataset.name, splits)
    for line in describe_dataset(plan.dataset):
        logger.info("  %s", line)
    for target in plan.targets:
        spec = target.spec
        size = sum(planned_bytes(spec, rows[split]) for split in plan.splits)
        state = ""
        if not target.pending:
            state = ", already complete"
        elif not target.missing_bytes:  # files whose records are lost or do not match
            state = ", to be repaired"
        elif target.missing_bytes < size:
            state = f", {format_bytes(target.missing_bytes)} of it still to be written"
        logger.info(
            "%s: %s x %s x %d (%s, %s), %s%s: %s",
            spec.model,
            pluralize(len(spec.layers), "layer"),
            pluralize(len(spec.tokens), "token"),
            spec.width,
            spec.tap,
            spec.storage_dtype,
            format_bytes(size),
            state,
            target.path,
        )
        logger.info("  preprocessing: %s", target.backbone.preprocessing)
        for note in target.backbone.notes:
            logger.info("  note: %s", note)


def _confirm(plan: ExtractionPlan, confirm: Confirm | bool, *, above: int) -> None:
    if plan.missing_bytes <= above or confirm is False:
        return
    size = f"this writes {format_bytes(plan.missing_bytes)}, more than {format_bytes(above)}"
    if confirm is True:
        raise OptionError(
            f"{size}: allow it with confirm=False (--yes), or store less (`layers`, `tokens`, "
            "`limit`)"
        )
    if not confirm(f"{size}. Continue?"):
        raise OptionError("nothing was written")


def _describe_progress(plan: ExtractionPlan) -> str:
    committed = total = rows = 0
    for target in plan.targets:
        for split in plan.splits:
            try:
                split_committed, split_total = load_cache(target.path).progress(split)
            except CacheError:
                split_committed, split_total = 0, 1
            committed += split_committed
            total += split_total
            rows += saved_rows(target.path, target.spec, split)
    unfinished = f", with {pluralize(rows, 'image')} of the next" if rows else ""
    return (
        f"{committed} of {total} row blocks are committed and kept; the same command continues "
        f"from there{unfinished}"
    )


def _result(plan: ExtractionPlan, target: Target, stats: RunStats) -> Extraction:
    cache = load_cache(target.path)
    return Extraction(
        model=target.spec.model,
        dataset=target.spec.dataset.name,
        path=target.path,
        splits=plan.splits,
        background=target.backbone.preprocessing.background,
        rows=sum(target.spec.dataset.splits[split].rows for split in plan.splits),
        skipped=sum(len(cache.split(split).skipped) for split in plan.splits),
        bytes=sum(size_on_disk(target.path, target.spec, split) for split in plan.splits),
        **vars(stats),
    )
