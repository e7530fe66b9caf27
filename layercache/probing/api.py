"""The public function `probe`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from layercache._options import read_options
from layercache.cache.cache import Cache
from layercache.cache.find import open_cache
from layercache.cache.storage.paths import CachePath
from layercache.errors import HeadMismatchError, OptionError
from layercache.probing.baselines import GRIDS
from layercache.probing.data.cache_lookup import find_spatial_cache
from layercache.probing.heads import HeadSpec
from layercache.probing.options import Options
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
Numbers = float | Sequence[float]


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
    num_heads: int | None = None,
    configs: Sequence[HParams] | None = None,
    lr: Numbers | None = None,
    weight_decay: Numbers | None = None,
    dropout: Numbers | None = None,
    seeds: int | Sequence[int] = 1,
    shots: int | Sequence[int] | None = None,
    train_fraction: Numbers | None = None,
    epochs: int | None = None,
    train_config: TrainConfig | None = None,
    test_split: str = "test",
    **options: Any,
) -> Results:
    """Train heads on cached tokens and test them.

    The defaults follow the paper (arXiv 2601.09322, "Attentive Multi-Layer Fusion").

    For every seed, a stratified 20 % of the training samples score the configurations by balanced
    accuracy (mean average precision for multi-label; ties go to the first in the order lr, weight
    decay, dropout). The best one is trained again on all training samples and tested once. Probes
    are stored in CACHE/probes/<id>/. A probe that exists is read instead of trained, and a killed
    search resumes.

    Args:
        cache: A cache or its folder.
        head: linear, attentive, attentive-tokens, hybrid, knn or logreg, or several of them.
        layers: last, mid-last, quarter, all or numbers ("1,5,9"), or several of these. Default:
            all; for attentive-tokens: last.
        tokens: Token kinds such as cls, ap, cls+ap, or several of these. Default: cls+ap; for
            attentive-tokens: all.
        spatial: Spatial tokens of the hybrid head, grid:K or patch.
        spatial_layers: Layers of the spatial tokens.
        spatial_cache: Cache of the spatial tokens if it is another one, of the same weights and
            images.
        embedding: For the hybrid head: learn an embedding for each layer and token kind.
        num_heads: Number of attention heads. Default: one for each token that is not spatial; for
            attentive-tokens: 8.
        configs: Configurations to search, instead of the product of `lr`, `weight_decay` and
            `dropout`.
        lr: Learning rates to search.
        weight_decay: Weight decays to search.
        dropout: Attention dropout rates to search. By default the grid is the paper's: 21
            configurations for linear, 63 for the others.
        seeds: Number of seeds (3: seeds 0, 1, 2), or which.
        shots: Training samples per class.
        train_fraction: Fraction of the training samples.
        epochs: Replaces the epochs of `train_config`.
        train_config: Schedule, batch size, noise and loss. Default: the paper's.
        test_split: Split to test on.
        **options: Fields of `layercache.probing.options.Options`.

    Returns:
        The probes in the order of head, layers, tokens, shots, train_fraction and seeds.

    Raises:
        OptionError: An option is wrong.
        UnknownNameError: There is no head, layer choice or token kind of this name.
        ProbeError: The labels allow no probe, or all configurations diverged.
        CacheError: The cache is not complete.
        NonFiniteError: A token is not finite.

    >>> import layercache  # doctest: +SKIP
    >>> cache = layercache.open_cache(model="vit_nano", dataset="digits")  # doctest: +SKIP
    >>> results = layercache.probe(cache, head=["linear", "attentive"], seeds=3)  # doctest: +SKIP
    >>> results.over_seeds()[["head", "test_balanced_accuracy_mean"]]  # doctest: +SKIP
    """
    run_options = read_options(Options, options, function="probe")
    cache = _open(cache)
    other = None if spatial_cache is None else _open(spatial_cache)
    if other is not None:
        _check_same_images(cache, other)
    config = train_config or TrainConfig()
    if epochs is not None:
        config = replace(config, epochs=epochs)
    specs = []
    for name, layer_choice, token_choice in product(
        _listed(head), _listed(layers), _listed(tokens)
    ):
        hybrid: dict[str, Any] = {}
        if name == "hybrid" and spatial is not None:
            other = other or find_spatial_cache(cache, spatial=spatial, layers=spatial_layers)
            hybrid = {"spatial": spatial, "spatial_layers": spatial_layers, "spatial_cache": other}
        selection = select_tokens(
            cache, head=name, layers=layer_choice, tokens=token_choice, **hybrid
        )
        head_spec = _head_spec(name, selection, num_heads=num_heads, embedding=embedding)
        points = _grid(name, configs=configs, lr=lr, weight_decay=weight_decay, dropout=dropout)
        seed_list = range(seeds) if isinstance(seeds, int) else seeds
        for n, fraction, seed in product(_listed(shots), _listed(train_fraction), seed_list):
            specs.append(
                ProbeSpec(
                    tokens=selection,
                    head=name,
                    head_spec=head_spec,
                    grid=points,
                    seed=seed,
                    shots=n,
                    train_fraction=fraction,
                    train_config=config,
                    precision=run_options.precision,
                    test_split=test_split,
                )
            )
    return Results(run_probes(specs, run_options))


def _open(cache: Cache | str | CachePath) -> Cache:
    return cache if isinstance(cache, Cache) else open_cache(cache)


def _listed(value: Any) -> tuple[Any, ...]:
    """Return the values of a sequence; a single value (also None) is a sequence of one."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value)
    return (value,)


def _head_spec(
    head: str, tokens: TokenSelection, *, num_heads: int | None, embedding: bool
) -> HeadSpec:
    spec = tokens.cache.spec
    kind = "linear" if head in BASELINES else head
    if kind == "linear":
        num_heads = None
    elif head == "hybrid":
        num_heads = num_heads or tokens.pooled
    return HeadSpec(
        kind=kind,
        tokens=len(tokens.pairs),
        width=spec.width,
        classes=len(spec.dataset.classes),
        num_heads=num_heads or 0,
        multi_label=spec.dataset.multi_label,
        embedding_ids=tokens.embedding_ids if embedding and head == "hybrid" else None,
    )


def _grid(
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
            dropout=(0.0,) if head == "linear" else dropouts,
        )
    if not configs:
        raise OptionError(
            "the grid is empty: give at least one value each of lr, weight_decay and dropout"
        )
    return tuple(dict(vars(hparams)) for hparams in dict.fromkeys(configs))


def _check_same_images(cache: Cache, spatial_cache: Cache) -> None:
    for name in ("weights", "width", "dataset"):
        if getattr(cache.spec, name) != getattr(spatial_cache.spec, name):
            raise HeadMismatchError(
                f"spatial_cache: expected a cache of the same {name} as {cache.path}, got "
                f"{spatial_cache.path}: extract both with the same options"
            )
