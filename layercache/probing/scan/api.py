"""`scan`: every layer and token kind through closed-form heads, in one read of the cache."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from layercache._devices import float64_device, free_memory, resolve_device
from layercache._units import join_words, parse_bytes, pluralize
from layercache.cache.cache import Cache
from layercache.cache.find import open_cache
from layercache.cache.storage.paths import CachePath
from layercache.errors import OptionError, UnknownNameError
from layercache.probing.baselines.grids import TASKS, check_task
from layercache.probing.data.dataset import TokenDataset
from layercache.probing.data.selection import SplitSelection, TokenSource
from layercache.probing.data.streaming import StreamedTokens, min_budget
from layercache.probing.heads.spec import REGRESSION
from layercache.probing.metrics import PRIMARY
from layercache.probing.options import MEMORY_FRACTION
from layercache.probing.scan.plan import HEADS, ScanPlan, plan_scan
from layercache.probing.scan.result import ScanResult
from layercache.probing.scan.rows import MAX_REFERENCES, split_rows
from layercache.probing.scan.runner import KNN, Scanner
from layercache.probing.scan.scores import as_targets, test_columns
from layercache.probing.splits.draws import check_labels
from layercache.probing.targets.target import Target, check_floats, stratify
from layercache.probing.targets.target_columns import read_target
from layercache.probing.training.allocator import retain_freed_memory

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
    device: str = "auto",
    memory_budget: int | str | None = None,
) -> ScanResult:
    """Fit closed-form heads to every layer and token kind, in one read of the cache.

    A setting of each head (the penalty of ridge, the shrinkage of lda, neighbors and temperature of
    knn) is selected by a stratified 20 % of the training samples (at most 10,000), each head is
    fitted again to all of them and tested once. knn compares with at most 4,000 training samples.
    Nothing is stored. `probe` with the same head searches a finer grid.

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
        device: auto, cpu or cuda; on an Apple GPU, which has no float64, the CPU.
        memory_budget: Memory for tokens that are read ahead (8GB, 500MiB or bytes).

    Raises:
        OptionError: An option is wrong.
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
    train = cache.split(TRAIN_SPLIT)
    plan = plan_scan(
        cache, rows=len(predicted.rows(train)), layers=layers, tokens=tokens, subsets=subsets
    )
    dataset = _load(train, predicted, plan, device=resolved, budget=budget)
    test = None
    if test_split is not None:
        test = _load(cache.split(test_split), predicted, plan, device=resolved, budget=budget)
    y = _targets(train, predicted, dataset)
    scanner = Scanner(
        plan=plan,
        heads=names,
        dataset=dataset,
        y=as_targets(y, device=resolved),
        classes=len(predicted.classes),
        task=predicted.task,
        rows=split_rows(stratify(y, task=predicted.task), seed=seed),
    )
    notes = _notes(scanner, plan)
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
        if test is not None and test_split is not None:
            test_y = as_targets(_targets(cache.split(test_split), predicted, test), device=resolved)
            samples = scanner.test(test, test_y, scanner.refit())
            tested = test_columns([samples[key] for key in scanner.settings], task=predicted.task)
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
    split: Split, target: Target, plan: ScanPlan, *, device: torch.device, budget: int | None
) -> TokenDataset:
    """Return the rows of a split that have a target, to be read once."""
    selection = SplitSelection((TokenSource(split, plan.pairs),), target.rows(split))
    if budget is None:
        free = int(MEMORY_FRACTION * free_memory(torch.device("cpu")))
        budget = max(min(READ_AHEAD_BYTES, free), min_budget(selection))
    return StreamedTokens(selection, device=device, memory_budget=budget)


def _targets(split: Split, target: Target, dataset: TokenDataset) -> Any:
    """Return the targets of a dataset's rows, checked."""
    if missing := target.describe_missing(split):
        logger.info("%s", missing)
    values = target.values(split)[dataset.selection.kept_rows]
    where = f"split {split.name!r}"
    if target.task == REGRESSION:
        check_floats(values, where=where)
    elif split.name == TRAIN_SPLIT:
        check_labels(values, target.classes, where=where)
    return values


def _notes(scanner: Scanner, plan: ScanPlan) -> tuple[str, ...]:
    """Return what a reader of the result has to know."""
    rows = scanner.rows
    notes = [
        f"settings were selected by {len(rows.val)} of {scanner.dataset.rows} training samples"
    ]
    if KNN in scanner.heads and scanner.dataset.rows > MAX_REFERENCES:
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
