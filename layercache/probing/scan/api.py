"""`scan`: every layer and token kind through closed-form heads, in one read of the cache."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layercache._devices import float64_device, free_memory, resolve_device
from layercache._units import join_words, parse_bytes, pluralize
from layercache.cache.cache import Cache
from layercache.cache.find import open_cache
from layercache.cache.storage.paths import CachePath
from layercache.errors import OptionError, UnknownNameError
from layercache.probing.baselines.grids import TASKS, check_task
from layercache.probing.data.dataset import TokenDataset
from layercache.probing.data.joined_splits import AnySplit, JoinedSplits
from layercache.probing.data.split_selection import SplitSelection, TokenSource
from layercache.probing.data.streaming import StreamedTokens, min_budget
from layercache.probing.heads.spec import CLASSIFICATION, REGRESSION
from layercache.probing.metrics import PRIMARY
from layercache.probing.options import MEMORY_FRACTION
from layercache.probing.scan.memory import ScanMemory, count_memory, fit_into_memory
from layercache.probing.scan.plan import HEADS, ScanPlan, plan_scan
from layercache.probing.scan.result import ScanResult
from layercache.probing.scan.rows import MAX_REFERENCES, split_rows
from layercache.probing.scan.runner import KNN, Scanner
from layercache.probing.scan.scores import as_targets, columns_of_test
from layercache.probing.splits.folds import group_numbers
from layercache.probing.splits.stratified_split import Rows, check_labels
from layercache.probing.splits.validation_choice import AUTO, choose_validation
from layercache.probing.splits.validation_options import LEAVE_ONE_OUT
from layercache.probing.targets.annotation_columns import read_annotation
from layercache.probing.targets.target import Target, check_floats, stratify
from layercache.probing.targets.target_columns import read_target
from layercache.probing.training.freed_memory import retain_freed_memory

if TYPE_CHECKING:
    from layercache.cache.reading.split import Split

logger = logging.getLogger(__name__)

READ_AHEAD_BYTES = 2**30
"""Memory of the two windows that tokens are read into, unless a row block is larger."""
TRAIN_SPLIT = "train"


def scan(
    cache: Cache | str | CachePath,
    *,
    heads: str | Sequence[str] | None = None,
    layers: str | None = None,
    tokens: str | None = None,
    subsets: str | Sequence[str] | None = None,
    target: str | Sequence[str] | None = None,
    task: str | None = None,
    seed: int = 0,
    test_split: str | None = "test",
    val_split: str | None = AUTO,
    group: str | None = None,
    device: str = "auto",
    memory_budget: int | str | None = None,
) -> ScanResult:
    """Fit closed-form heads to every layer and token kind, in one read of the cache.

    A setting of each head (the penalty of ridge, the shrinkage of lda, neighbors and temperature of
    knn) is selected by the dataset's validation split, or by a stratified 20 % of the training
    samples (in both cases at most 10,000); each head is fitted again to all training samples and
    tested once. knn compares with at most 4,000 of them. Nothing is stored. `probe` with the same
    head searches a finer grid, also by K folds.

    Args:
        cache: A cache or its folder.
        heads: ridge, lda and knn, or some of them. Default: all that the target allows.
        layers: Layers to scan, as in `probe`. Default: all that are stored.
        tokens: Token kinds ("cls+ap"). Default: all that are stored and are one token of a layer.
        subsets: last, mid-last, quarter, all: several layers and all kinds together. Default: those
            that are stored and cost at most three times as much as all tokens on their own.
        target: Annotation column to predict, as in `probe`.
        task: classification, multi-label or regression, as in `probe`.
        seed: Seed of the validation part.
        test_split: Split to test on; None: none.
        val_split: Split that selects the configurations, as in `probe`; None: 20 % of the training
            samples; "auto": the one called val, valid, validation or dev, if there is one.
        group: Annotation column whose groups are not divided by the validation split, as in
            `probe`; the intervals of the test scores draw whole groups.
        device: auto, cpu or cuda; on an Apple GPU, which has no float64, the CPU.
        memory_budget: Memory for tokens that are read ahead (8GB, 500MiB or bytes).

    Raises:
        OptionError: An option is wrong, or the scan needs more memory than there is.
        UnknownNameError: There is no such head, subset, layer choice, token kind or split.
        ProbeError: The targets allow no scan.
        CacheError: The cache is not complete.

    >>> import layercache  # doctest: +SKIP
    >>> result = layercache.scan("caches/digits/vit_nano/965d75d18ec5")  # doctest: +SKIP
    >>> result.ranking()[["head", "layers", "tokens", "test_balanced_accuracy"]]  # doctest: +SKIP
    """
    started = time.perf_counter()
    cache = cache if isinstance(cache, Cache) else open_cache(cache)
    resolved = float64_device(resolve_device(device)[0])
    predicted = read_target(cache, target, task=task)
    names = _heads(heads, predicted)
    budget = None
    if memory_budget is not None:
        budget = parse_bytes(memory_budget, name="memory_budget")
    if val_split == LEAVE_ONE_OUT:
        raise OptionError(
            f"val_split: a scan selects by held-out samples, not by leave-one-out "
            f"({LEAVE_ONE_OUT}), which probe has for ridge and lda: choose a split, or None (--val "
            "none) for 20 % of the training samples"
        )
    tests = [] if test_split is None else [test_split]
    validation = choose_validation(
        cache,
        target=predicted,
        train_split=TRAIN_SPLIT,
        test_splits=tests,
        val_split=val_split,
        group=group,
    )
    splits = [cache.split(n) for n in (TRAIN_SPLIT, validation.split) if n is not None]
    kept = [predicted.rows(split) for split in splits]
    n_train = len(kept[0])
    y = np.concatenate([_targets(s, predicted, r) for s, r in zip(splits, kept, strict=True)])
    rows = split_rows(
        stratify(y, task=predicted.task),
        seed=seed,
        train_rows=None if validation.split is None else n_train,
        groups=None if group is None else _groups(cache, group, TRAIN_SPLIT, kept[0]),
    )
    test = None if test_split is None else cache.split(test_split)
    test_kept = None if test is None else predicted.rows(test)

    def plan_with(choice: str | Sequence[str] | None, choice_layers: str | None) -> ScanPlan:
        return plan_scan(cache, rows=n_train, layers=choice_layers, tokens=tokens, subsets=choice)

    def count(plan: ScanPlan, names: Sequence[str]) -> ScanMemory:
        return count_memory(
            plan,
            rows,
            heads=names,
            outputs=len(predicted.classes),
            test_rows=0 if test_kept is None else len(test_kept),
            itemsize=np.dtype(cache.spec.storage_dtype).itemsize,
            keeps_logits=predicted.task != CLASSIFICATION,
        )

    plan = fit_into_memory(
        plan_with(subsets, layers),
        count,
        names,
        plan_with=plan_with,
        layers=layers,
        by_default=subsets is None,
        free=free_memory(resolved),
    )
    joined = splits[0] if len(splits) == 1 else JoinedSplits(splits)
    starts = np.cumsum([0, *(split.rows for split in splits[:-1])])
    joined_rows = np.concatenate([r + start for r, start in zip(kept, starts, strict=True)])
    scanner = Scanner(
        plan=plan,
        heads=names,
        dataset=_load(joined, joined_rows, plan, device=resolved, budget=budget),
        y=as_targets(y, device=resolved),
        classes=len(predicted.classes),
        task=predicted.task,
        rows=rows,
    )
    notes = _notes(scanner, plan, val_split=validation.split, group=group)
    logger.info(
        "scanning %s of %s with %s",
        pluralize(len(plan.subsets), "subset"),
        pluralize(len(plan.pairs), "token"),
        join_words(names),
    )
    with retain_freed_memory():
        scanner.read()
        scanner.search()
        tested: list[dict[str, Any]] = [{} for _ in scanner.settings]
        if test is not None and test_kept is not None:
            test_y = as_targets(_targets(test, predicted, test_kept), device=resolved)
            dataset = _load(test, test_kept, plan, device=resolved, budget=budget)
            samples = scanner.test(dataset, test_y, scanner.refit())
            tested = columns_of_test(
                [samples[key] for key in scanner.settings],
                task=predicted.task,
                groups=None if group is None else _groups(cache, group, test.name, test_kept),
            )
    return ScanResult(
        table=_table(scanner, tested),
        task=predicted.task,
        title=f"{cache.spec.model} on {cache.spec.dataset.name}",
        notes=notes,
        seconds=time.perf_counter() - started,
    )


def _heads(heads: str | Sequence[str] | None, target: Target) -> list[str]:
    if heads is None:
        return [head for head in HEADS if target.task in TASKS[head]]
    names = [heads] if isinstance(heads, str) else list(dict.fromkeys(heads))
    for name in names:
        if name not in HEADS:
            raise UnknownNameError("head of a scan", name, HEADS)
        check_task(name, target.task)
    if not names:
        raise OptionError(f"heads: expected at least one of {join_words(HEADS)}, got none")
    return names


def _load(
    split: AnySplit, rows: Rows, plan: ScanPlan, *, device: torch.device, budget: int | None
) -> TokenDataset:
    """Return some rows of a split, to be read once."""
    selection = SplitSelection((TokenSource(split, plan.pairs),), rows)
    if budget is None:
        free = int(MEMORY_FRACTION * free_memory(torch.device("cpu")))
        budget = max(min(READ_AHEAD_BYTES, free), min_budget(selection))
    return StreamedTokens(selection, device=device, memory_budget=budget)


def _targets(split: Split, target: Target, rows: Rows) -> Any:
    """Return the targets of some rows of a split, checked."""
    if missing := target.describe_missing(split):
        logger.info("%s", missing)
    values = target.values(split)[rows]
    where = f"split {split.name!r}"
    if target.task == REGRESSION:
        check_floats(values, where=where)
    elif split.name == TRAIN_SPLIT:
        check_labels(values, target.classes, where=where)
    return values


def _groups(cache: Cache, column: str, split: str, rows: Rows) -> Rows:
    """Return the number of the group of some rows of a split."""
    groups, n_missing = group_numbers(read_annotation(cache, column, split).iloc[rows])
    if n_missing:
        logger.warning(
            "%s of %d of split %s have no %s: each is a group of its own",
            pluralize(n_missing, "sample"),
            len(rows),
            split,
            column,
        )
    return groups


def _notes(
    scanner: Scanner, plan: ScanPlan, *, val_split: str | None, group: str | None
) -> tuple[str, ...]:
    """Return what a reader of the result has to know."""
    rows = scanner.rows
    source = f"{len(rows.refit)} training samples"
    if val_split is not None:
        source = f"{scanner.dataset.rows - len(rows.refit)} samples of split {val_split}"
    elif group is not None:
        source += f", without a {group} on both sides"
    notes = [f"settings were selected by {len(rows.val)} of {source}"]
    if KNN in scanner.heads and len(rows.refit) > MAX_REFERENCES:
        notes.append(
            f"knn compares with {len(rows.references)} of the training samples; the head knn of "
            "probe compares with all"
        )
    if plan.left_out:
        words = join_words([subset.layers for subset in plan.left_out])
        notes.append(
            f"left out, as it costs more than three times all tokens on their own: {words} "
            "(request it with subsets, --subsets)"
        )
    if plan.too_large:
        words = join_words([subset.layers for subset in plan.too_large])
        notes.append(f"left out, as it needs more memory than there is: {words}")
    return tuple(notes)


def _table(scanner: Scanner, tested: Sequence[dict[str, Any]]) -> Any:
    """Return the table, subset by subset."""
    import pandas as pd

    rows = []
    for (number, head), columns in zip(scanner.settings, tested, strict=True):
        subset, setting = scanner.plan.subsets[number], scanner.settings[number, head]
        rows.append(
            {
                "head": head,
                "layers": subset.layers,
                "tokens": subset.kinds,
                "n_tokens": len(subset.tokens),
                "config": ", ".join(f"{name}={value:g}" for name, value in setting.items()),
                f"val_{PRIMARY[scanner.task]}": scanner.val_scores[number, head],
                **columns,
            }
        )
    order = sorted(
        range(len(rows)),
        key=lambda i: (scanner.heads.index(rows[i]["head"]), list(scanner.settings)[i][0]),
    )
    return pd.DataFrame([rows[i] for i in order])
