"""Plans the probes of a request: heads x layers x tokens x training subsets x seeds, each once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

from layercache._units import join_words
from layercache.cache.cache import Cache
from layercache.cache.find import open_cache
from layercache.cache.storage.paths import CachePath
from layercache.errors import HeadMismatchError, OptionError
from layercache.probing.baselines import GRIDS, check_task
from layercache.probing.baselines.leave_one_out_model import LEAVE_ONE_OUT_HEADS
from layercache.probing.data.cache_lookup import find_spatial_cache
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.spec import (
    BASELINES,
    MULTI_LABEL,
    REGRESSION,
    SPATIAL_HEADS,
    WITHOUT_DROPOUT,
)
from layercache.probing.join import (
    check_join_width,
    check_joinable,
    join_tokens,
    joined_shape,
    open_joined,
)
from layercache.probing.metrics import PRIMARY, check_metric
from layercache.probing.progress import describe
from layercache.probing.request import Layers, Numbers, ProbeRequest
from layercache.probing.search.strategy_choice import choose_search
from layercache.probing.spec import ProbeSpec
from layercache.probing.splits.stratified_split import is_whole_split
from layercache.probing.splits.test_choice import choose_tests
from layercache.probing.splits.validation_choice import choose_validation
from layercache.probing.splits.validation_options import LEAVE_ONE_OUT
from layercache.probing.targets.target import Target, stratify
from layercache.probing.targets.target_columns import read_target
from layercache.probing.token_selection import TokenSelection, select_tokens
from layercache.probing.training.config import (
    DROPOUTS,
    LEARNING_RATES,
    WEIGHT_DECAYS,
    HParams,
    grid,
)

logger = logging.getLogger(__name__)

MAX_LISTED_PROBES = 5


def plan_probes(cache: Cache | str | CachePath, request: ProbeRequest) -> list[ProbeSpec]:
    """Return the probes that `probe` trains, in order and each once.

    Probes that are requested repeatedly (seeds 0,0; layers last and 12) are logged. Shots, or a
    fraction, that select all training samples are treated as if they were not given.

    Args:
        cache: A cache or its folder.
        request: The options of `probe`.

    Raises:
        OptionError: An option is wrong.
        UnknownNameError: There is no head, layer choice or token kind of this name.
        HeadMismatchError: The cache of the spatial tokens has other weights or images, or a joined
            cache has other images.
    """
    cache = _open(cache)
    spatial_cache = _spatial_cache(cache, request)
    target = read_target(cache, request.target, task=request.task)
    first_test, further_tests = choose_tests(
        cache, test_split=request.test_split, test_cache=request.test_cache
    )
    own_tests = [test.split for test in further_tests if test.cache is None]
    validation = choose_validation(
        cache,
        target=target,
        train_split=ProbeSpec.train_split,
        test_splits=[first_test, *own_tests],
        val_split=request.val_split,
        folds=request.folds,
        repeats=request.repeats,
        group=request.group,
        fold_column=request.fold_column,
        refit=request.refit,
    )
    splits = {ProbeSpec.train_split, first_test, *own_tests, validation.split} - {None}
    joined = open_joined(cache, request.join, splits=sorted(map(str, splits)))
    join_width = check_join_width(request.join_width, joined=bool(joined))
    select = _selection_metric(request, target)
    subsets = _subsets(cache, target, shots=request.shots, train_fraction=request.train_fraction)
    specs, searches = [], dict[str, str]()
    for head, layers, tokens in product(
        _listed(request.head), _layer_choices(request.layers), _listed(request.tokens)
    ):
        if joined:
            check_joinable(head)
            if request.config.uses_layers:
                raise OptionError(
                    "layer_dropout, kind_dropout and last_layer_penalty are for the layers of one "
                    "encoder: leave them out, or join no cache"
                )
        spatial: dict[str, Any] = {}
        if head in SPATIAL_HEADS and request.spatial is not None:
            spatial_cache = spatial_cache or find_spatial_cache(
                cache, spatial=request.spatial, layers=request.spatial_layers
            )
            spatial = {
                "spatial": request.spatial,
                "spatial_layers": request.spatial_layers,
                "spatial_cache": spatial_cache,
            }
        if validation.scheme == LEAVE_ONE_OUT and head not in LEAVE_ONE_OUT_HEADS:
            raise OptionError(
                f"val_split: leave-one-out ({LEAVE_ONE_OUT}) is computed without a refit for "
                f"{join_words(LEAVE_ONE_OUT_HEADS)}, and head {head} would be trained once for "
                "every sample: choose one of these heads, or folds instead (--folds 5)"
            )
        selection = select_tokens(cache, head=head, layers=layers, tokens=tokens, **spatial)
        if joined:
            selection = join_tokens(selection, joined, head=head, layers=layers, kinds=tokens)
        for test in further_tests:
            if test.cache is not None:
                selection.of_cache(test.cache)
        head_spec = _head_spec(
            head,
            selection,
            target=target,
            num_heads=request.num_heads,
            embedding=request.embedding,
            position_embedding=request.position_embedding,
            gate=request.gate,
            join_width=join_width,
            uses_layers=request.config.uses_layers,
        )
        if head not in BASELINES:
            request.config.check_head(head_spec)
        points = make_grid(
            head,
            configs=request.configs,
            lr=request.lr,
            weight_decay=request.weight_decay,
            dropout=request.dropout,
        )
        if head not in searches:  # once for all selections of tokens, as it is logged
            searches[head] = choose_search(
                request.search,
                head=head,
                grid=points,
                epochs=head not in BASELINES,
                paper_compat=request.paper_compat,
            )
        for (n, fraction), seed in product(subsets, request.seed_list):
            specs.append(
                ProbeSpec(
                    tokens=selection,
                    head=head,
                    head_spec=head_spec,
                    grid=points,
                    seed=seed,
                    shots=n,
                    train_fraction=fraction,
                    train_config=request.config,
                    precision=request.precision,
                    test_split=first_test,
                    further_tests=further_tests,
                    paper_compat=request.paper_compat,
                    validation=validation,
                    target=None if target.is_label else target,
                    select=select,
                    search=searches[head],
                )
            )
    return _unique(specs)


def _spatial_cache(cache: Cache, request: ProbeRequest) -> Cache | None:
    """Return the requested cache of the spatial tokens, or None."""
    if request.spatial_cache is None:
        return None
    other = _open(request.spatial_cache)
    if other.path == cache.path:
        other = cache
    _check_same_images(cache, other)
    return other


def _selection_metric(request: ProbeRequest, target: Target) -> str | None:
    """Return the name of the metric that selects; None for the default of the task."""
    if request.select is None:
        return None
    metric = check_metric(request.select, task=target.task, option="select")
    return None if metric.name == PRIMARY[target.task] else metric.name


def tested_caches(specs: Sequence[ProbeSpec]) -> list[Cache]:
    """Return the caches that probes are tested on, each once."""
    caches = {}
    for spec in specs:
        for cache in (spec.tokens.cache, *(test.cache for test in spec.further_tests)):
            if cache is not None:
                caches[cache.path] = cache
    return list(caches.values())


def _unique(specs: Sequence[ProbeSpec]) -> list[ProbeSpec]:
    unique = {spec.id: spec for spec in specs}
    repeated = [(unique[i], n) for i, n in Counter(spec.id for spec in specs).items() if n > 1]
    if repeated:
        listed = [f"{describe(spec)} ({n} times)" for spec, n in repeated[:MAX_LISTED_PROBES]]
        if len(repeated) > MAX_LISTED_PROBES:
            listed.append(f"{len(repeated) - MAX_LISTED_PROBES} more")
        logger.info(
            "%d of the %d requested probes are repeated, or the same by another name; each is "
            "trained and counted once: %s",
            len(specs) - len(unique),
            len(specs),
            join_words(listed),
        )
    return list(unique.values())


def _subsets(
    cache: Cache,
    target: Target,
    *,
    shots: int | Sequence[int] | None,
    train_fraction: Numbers | None,
) -> list[tuple[int | None, float | None]]:
    """Return (shots, fraction) of each training subset; (None, None) stands for all samples."""
    subsets: list[tuple[int | None, float | None]] = []
    for n, fraction in product(_listed(shots), _listed(train_fraction)):
        if n is not None and target.task == REGRESSION:
            raise OptionError(
                "shots: counts samples per class, and a regression has no classes: give a "
                "train_fraction (--fraction) instead"
            )
        if (n, fraction) != (None, None):
            split = cache.split(ProbeSpec.train_split)
            labels = stratify(target.values(split)[target.rows(split)], task=target.task)
            if is_whole_split(labels, shots=n, fraction=fraction):
                logger.info(
                    "%s takes all %d training samples: the same as without it",
                    f"train_fraction {fraction:g}" if n is None else f"shots {n}",
                    len(labels),
                )
                n, fraction = None, None
        subsets.append((n, fraction))
    return subsets


def _open(cache: Cache | str | CachePath) -> Cache:
    return cache if isinstance(cache, Cache) else open_cache(cache)


def _listed(value: Any) -> tuple[Any, ...]:
    """Return the values of a sequence; a single value (also None) is a sequence of one."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value)
    return (value,)


def _layer_choices(layers: Layers | None) -> tuple[str | None, ...]:
    """Return each layer choice as a word or numbers, "1,5,9"; a list of numbers is one choice."""
    choices = _listed(layers)
    if choices and all(isinstance(choice, int) for choice in choices):
        choices = (choices,)
    return tuple(
        choice if choice is None or isinstance(choice, str) else ",".join(map(str, _listed(choice)))
        for choice in choices
    )


def _head_spec(
    head: str,
    tokens: TokenSelection,
    *,
    target: Target,
    num_heads: int | None,
    embedding: bool,
    position_embedding: bool,
    gate: str,
    join_width: int | str | None,
    uses_layers: bool,
) -> HeadSpec:
    check_task(head, target.task)
    kind = "linear" if head in BASELINES else head
    if kind in WITHOUT_DROPOUT:
        num_heads = None
    elif head in SPATIAL_HEADS:
        num_heads = num_heads or tokens.pooled
    embedding_ids = None
    if (embedding or position_embedding) and head in SPATIAL_HEADS:
        embedding_ids = tokens.embeddings_of(head, positions=position_embedding)
    is_fusion = head == "fusion"
    return HeadSpec(
        kind=kind,
        tokens=len(tokens.pairs),
        **joined_shape(tokens, head=head, join_width=join_width),
        classes=len(target.classes),
        num_heads=num_heads or 0,
        multi_label=target.task == MULTI_LABEL,
        regression=target.task == REGRESSION,
        embedding_ids=embedding_ids,
        spatial_tokens=len(tokens.pairs) - tokens.pooled if is_fusion else 0,
        gate=gate if is_fusion else "",
        layer_ids=tokens.layer_ids if uses_layers and head not in BASELINES else None,
        kind_ids=tokens.kind_ids if uses_layers and head not in BASELINES else None,
        mix_ids=tokens.mix_ids if head == "scalar-mix" else None,
    )


def make_grid(
    head: str,
    *,
    configs: Sequence[HParams] | None,
    lr: Numbers | None,
    weight_decay: Numbers | None,
    dropout: Numbers | None,
) -> tuple[dict[str, float], ...]:
    """Return the configurations to search as plain values, in order, without duplicates."""
    if head in BASELINES:
        return tuple(dict(hparams) for hparams in GRIDS[head])
    if configs is not None and (lr, weight_decay, dropout) != (None, None, None):
        raise OptionError("give configs, or lr, weight_decay and dropout, not both")
    if configs is None:
        dropouts = DROPOUTS if dropout is None else _listed(dropout)
        configs = grid(
            lr=LEARNING_RATES if lr is None else _listed(lr),
            weight_decay=WEIGHT_DECAYS if weight_decay is None else _listed(weight_decay),
            dropout=(0.0,) if head in WITHOUT_DROPOUT else dropouts,
        )
    if any(hparams.spatial is not None for hparams in configs):
        raise OptionError(
            "configs: the search pairs the hyperparameters of the layers with those of the spatial "
            "branch itself: leave spatial out, and list both"
        )
    if not configs:
        raise OptionError(
            "the grid is empty: give at least one value each of lr, weight_decay and dropout"
        )
    points = [
        {name: float(value) for name, value in hparams.to_dict().items()} for hparams in configs
    ]
    return tuple(dict(point) for point in dict.fromkeys(tuple(p.items()) for p in points))


def _check_same_images(cache: Cache, spatial_cache: Cache) -> None:
    for name in ("weights", "width", "dataset"):
        if getattr(cache.spec, name) != getattr(spatial_cache.spec, name):
            raise HeadMismatchError(
                f"spatial_cache: expected a cache of the same {name} as {cache.path}, got "
                f"{spatial_cache.path}: extract both with the same options"
            )
