"""The public `probe`: heads x layers x tokens x seeds on one cache, each probe selected, refitted, tested once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from layercache.cache.find import Cache, open_cache
from layercache.cache.storage.paths import CachePath
from layercache.errors import HeadMismatchError, OptionError
from layercache.probing.baselines import GRIDS
from layercache.probing.data.find_cache import spatial_cache as find_spatial
from layercache.probing.heads import HeadSpec
from layercache.probing.options import read_options
from layercache.probing.results.table import Results
from layercache.probing.runner import run_probes
from layercache.probing.spec import BASELINES, ProbeSpec, TokenSelection, select_tokens
from layercache.probing.training.config import (
    DROPOUTS,
    LEARNING_RATES,
    WEIGHT_DECAYS,
    HParams,
    TrainConfig,
    grid,
)

Words = str | Sequence[str]


def probe(
    cache: Cache | str | CachePath,
    *,
    head: Words = "attentive",
    layers: Words | None = None,
    tokens: Words | None = None,
    spatial: str | None = None,
    spatial_layers: str = "last",
    spatial_cache: Cache | str | CachePath | None = None,
    embedding: bool = False,
    heads: int | None = None,
    settings: Sequence[HParams] | None = None,
    lr: float | Sequence[float] | None = None,
    weight_decay: float | Sequence[float] | None = None,
    dropout: float | Sequence[float] | None = None,
    seeds: int | Sequence[int] = 1,
    shots: int | Sequence[int] | None = None,
    fraction: float | Sequence[float] | None = None,
    epochs: int | None = None,
    protocol: TrainConfig | None = None,
    test: str = "test",
    **options: Any,
) -> Results:
    """Train heads from cached tokens and test them; by default as the paper does (arXiv 2601.09322, "Attentive Multi-Layer Fusion").

    For every seed, a stratified 20 % of the training samples score the settings by balanced accuracy (mAP when multi-label; of equal ones the
    first in the order lr, weight decay, dropout as given wins), the best is trained again on all of them, and tested once.
    A probe is kept in CACHE/probes/<id>/; asked for again it is read, not trained, and a killed sweep continues.

    cache: a Cache or its folder. head: linear, attentive, attentive-tokens, hybrid, knn, logreg, or several. layers: last, mid-last, quarter, all or
    numbers ("1,5,9"), or several of these; default all (attentive-tokens: last). tokens: such as cls, ap, cls+ap; default cls+ap
    (attentive-tokens: all). spatial, spatial_layers, spatial_cache: the hybrid head's spatial tokens (grid:K or patch), of which layers, and of which
    cache where it is another one of the same weights and images; embedding: learn one for each layer and kind of token. heads: attention heads;
    default one for each token that is not spatial (attentive-tokens: 8).
    settings, or lr x weight_decay x dropout: the grid; default the paper's 21 (linear) or 63. seeds: how many (0, 1, ...) or which.
    shots: training samples of each class. fraction: part of the training samples. epochs: instead of the protocol's 40. test: split to test on.
    options: the fields of `Options`.

    Raises OptionError and UnknownNameError for options, ProbeError where the labels allow no probe or all settings diverged, CacheError where the
    cache is not whole, NonFiniteError where a token is not finite.

    >>> import layercache                                                                   # doctest: +SKIP
    >>> cache = layercache.open_cache(model="vit_nano", dataset="digits")                   # doctest: +SKIP
    >>> results = layercache.probe(cache, head=["linear", "attentive"], layers=["last", "all"], seeds=3)  # doctest: +SKIP
    >>> results.over_seeds()[["head", "layers", "test_balanced_accuracy_mean"]]             # doctest: +SKIP
    """
    chosen = read_options(options)
    first = cache if isinstance(cache, Cache) else open_cache(cache)
    beside = (
        None
        if spatial_cache is None
        else spatial_cache
        if isinstance(spatial_cache, Cache)
        else open_cache(spatial_cache)
    )
    if beside is not None:
        _check_beside(first, beside)
    training = protocol or TrainConfig()
    if epochs is not None:
        training = replace(training, epochs=epochs)
    cells = []
    for word, layer, token in product(_words(head), _words(layers), _words(tokens)):
        hybrid: dict[str, Any] = {}
        if word == "hybrid" and spatial is not None:
            beside = beside or find_spatial(first, spatial=spatial, layers=spatial_layers)
            hybrid = {"spatial": spatial, "spatial_layers": spatial_layers, "beside": beside}
        seen = select_tokens(first, head=word or "", layers=layer, tokens=token, **hybrid)
        shape = _shape(word or "", seen, heads=heads, embedding=embedding)
        points = _grid(
            word or "", settings=settings, lr=lr, weight_decay=weight_decay, dropout=dropout
        )
        for few, part, seed in product(
            _values(shots), _values(fraction), range(seeds) if isinstance(seeds, int) else seeds
        ):
            cells.append(
                ProbeSpec(
                    tokens=seen,
                    head=word or "",
                    head_spec=shape,
                    grid=points,
                    seed=seed,
                    shots=few,
                    train_fraction=part,
                    train_config=training,
                    precision=chosen.precision,
                    test_split=test,
                )
            )
    return Results(run_probes(cells, chosen))


def _shape(head: str, tokens: TokenSelection, *, heads: int | None, embedding: bool) -> HeadSpec:
    spec = tokens.cache.spec
    kind = "linear" if head in BASELINES else head
    return HeadSpec(
        kind=kind,
        tokens=len(tokens.pairs),
        width=spec.width,
        classes=len(spec.dataset.classes),
        attention_heads=None
        if kind == "linear"
        else heads or (tokens.pooled if head == "hybrid" else None),
        multi_label=spec.dataset.multi_label,
        groups=tokens.groups if embedding and head == "hybrid" else None,
    )


def _grid(
    head: str, *, settings: Any, lr: Any, weight_decay: Any, dropout: Any
) -> tuple[dict[str, float], ...]:
    """The settings as plain values, in order."""
    if head in BASELINES:
        return tuple(dict(setting) for setting in GRIDS[head])
    if settings is not None and not (lr is None and weight_decay is None and dropout is None):
        raise OptionError("give settings, or lr, weight_decay and dropout, not both")
    if settings is None:
        drops = (0.0,) if head == "linear" else _list(dropout, DROPOUTS)
        settings = grid(
            lr=_list(lr, LEARNING_RATES),
            weight_decay=_list(weight_decay, WEIGHT_DECAYS),
            dropout=drops,
        )
    if not settings:
        raise OptionError(
            "the grid is empty: give at least one value each of lr, weight decay and dropout"
        )
    return tuple(vars(setting) for setting in dict.fromkeys(settings))


def _check_beside(first: Cache, other: Cache) -> None:
    a, b = first.spec, other.spec
    for name, one, two in (
        ("weights", a.weights, b.weights),
        ("width", a.width, b.width),
        ("data set", a.dataset, b.dataset),
    ):
        if one != two:
            raise HeadMismatchError(
                f"the spatial tokens must come from the same {name}: {first.path} and {other.path} differ; extract them with the same options"
            )


def _words(value: Words | None) -> tuple[str | None, ...]:
    return (None,) if value is None else (value,) if isinstance(value, str) else tuple(value)


def _values(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _list(value: float | Sequence[float] | None, default: Sequence[float]) -> tuple[float, ...]:
    return (
        tuple(default)
        if value is None
        else tuple(value)
        if isinstance(value, Sequence)
        else (value,)
    )
