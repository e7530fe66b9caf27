"""Reads a study file: backbones, datasets, heads and options. An unknown key is an error.

    name = "small"
    models = ["vit_nano"]
    datasets = ["digits", "photos"]
    seeds = 3                            # 0, 1, 2; or a list

    [[heads]]                            # one per column; a list makes a column of each entry
    head = "attentive"
    layers = "all"
    tokens = "cls+ap"

    [grid]                               # default: the paper's; a head may have its own
    lr = [0.1, 0.01]

    [protocol]                           # epochs, min_steps, batch ...
    [extract]                            # all extractions: tap, precision, limit, share_decode ...
    [model.clip_b16]                     # one model: weights ... (quote a name with dots)
    [dataset.digits]                     # for those of one dataset: root, limit, source ...
    [probe]                              # device, precision, features, memory, group_size
    [report]                             # per_head, details, cka_images

    engine = "ray"                       # above the tables; address = "HOST:PORT" joins a cluster

Paths are relative to the folder where the command runs, as on the command line. Of [extract],
[dataset.NAME] and [model.NAME] the later one wins.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from layercache.cache.format.selection import LAYER_WORDS
from layercache.cache.storage.paths import CachePath, as_cache_path
from layercache.engine import check_engine
from layercache.errors import LayercacheError, OptionError, UnknownNameError
from layercache.extraction.datasets.listing import DATASETS, SOURCE_FORMS
from layercache.extraction.models.registry import MODELS
from layercache.probing.spec import BASELINES, HEADS, TOKEN_KIND
from layercache.probing.training.config import (
    DROPOUTS,
    LEARNING_RATES,
    WEIGHT_DECAYS,
    HParams,
    Noise,
    TrainConfig,
)
from layercache.probing.training.config import grid as make_grid
from layercache.study.keys import (
    DATASET,
    EXTRACT,
    GRID_KEYS,
    HEAD,
    MODEL,
    NOISE,
    PROBE,
    PROTOCOL,
    REPORT,
    TABLE_OF_KEY,
    TOP,
    Table,
)

GRID = ("lr", "weight_decay", "dropout")


@dataclass(frozen=True, kw_only=True)
class HeadPlan:
    """A head on a selection of tokens: one column of the table."""

    head: str
    """Name of the head, such as "attentive"."""
    layers: str
    """Layers: last, mid-last, quarter, all or numbers."""
    tokens: str
    """Token kinds, joined by "+"."""
    configs: tuple[HParams, ...]
    """Grid of configurations; empty for a baseline, which has its own."""
    train_config: TrainConfig
    """Training configuration."""
    options: Mapping[str, Any]
    """Other options of `probe`: heads, embedding, spatial, spatial_layers, shots, fraction."""

    @property
    def name(self) -> str:
        """Name in messages, such as "attentive all cls+ap"."""
        details = [
            f"{self.options[k]} {word}"
            for k, word in (("shots", "shots"), ("fraction", "of train"), ("heads", "heads"))
            if k in self.options
        ]
        spatial = (
            [f"{self.options['spatial']}@{self.options.get('spatial_layers', 'last')}"]
            if "spatial" in self.options
            else []
        )
        return " ".join([self.head, self.layers, self.tokens, *spatial, *details])


@dataclass(frozen=True, kw_only=True)
class Study:
    """Content of a study file."""

    name: str
    """Name of the study; that of the file by default."""
    models: tuple[str, ...]
    """Names of the backbones."""
    datasets: tuple[str, ...]
    """Names of the datasets in this file."""
    heads: tuple[HeadPlan, ...]
    """Heads, one per column."""
    seeds: tuple[int, ...]
    """Seeds of every probe."""
    out: Path
    """Folder of the report."""
    cache: CachePath | None
    """Folder of all caches; None for the default."""
    extract: Mapping[str, Any]
    """Options of [extract] except share_decode."""
    share_decode: bool
    """Extract models with equal options in one run, decoding each image once.

    They must fit into memory together.
    """
    of_model: Mapping[str, Mapping[str, Any]]
    """Options of each [model.NAME]."""
    of_dataset: Mapping[str, Mapping[str, Any]]
    """Options of each [dataset.NAME]."""
    probe: Mapping[str, Any]
    """Options of [probe]."""
    report: Mapping[str, Any]
    """Options of [report]."""
    engine: str = "local"
    """Where extractions and probes run: "local" or "ray"."""
    ray_address: str | None = None
    """Address of a running Ray cluster; None starts one on this machine."""

    def source(self, dataset: str) -> str:
        """Return the source of a dataset of this study, as `open_dataset` takes it."""
        return str(self.of_dataset.get(dataset, {}).get("source", dataset))


def read_study(path: str | Path) -> Study:
    """Return the study in a file.

    Raises:
        OptionError: The file cannot be read, or a value is wrong; the message names file and key.
        UnknownNameError: A key or name is unknown; the message names the nearest.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise OptionError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: cannot be read ({error})") from error
    return parse_study(text, where=str(path), name=path.stem)


def parse_study(text: str, *, where: str, name: str) -> Study:
    """Return the study in the text of a file.

    Args:
        text: TOML.
        where: Name of the file, for errors.
        name: Name of the study if the text has none.

    Raises:
        OptionError: A value is wrong.
        UnknownNameError: A key or name is unknown.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{where}: not valid TOML: {error}") from error
    top = _check(raw, TOP, where=where)
    for key in ("models", "datasets", "heads"):
        if not top.get(key):
            raise OptionError(
                f"{where}: {key} is missing or empty: "
                "a study needs at least one of each of models, datasets and heads"
            )
        if key != "heads" and len(set(top[key])) < len(top[key]):
            raise OptionError(f"{where}: {key}: expected each name once, got {', '.join(top[key])}")
    grid = _check(top.get("grid", {}), GRID_KEYS, where=f"{where}: [grid]")
    protocol = _protocol(top.get("protocol", {}), where=f"{where}: [protocol]")
    extract = _check(
        top.get("extract", {}), EXTRACT, where=f"{where}: [extract]", elsewhere=TABLE_OF_KEY
    )
    study = Study(
        name=top.get("name", name),
        models=tuple(top["models"]),
        datasets=tuple(top["datasets"]),
        heads=_heads(top["heads"], grid=grid, protocol=protocol, where=where),
        seeds=_seeds(top.get("seeds", 1), where=where),
        out=Path(top.get("out", f"reports/{top.get('name', name)}")),
        cache=as_cache_path(top["cache"]) if "cache" in top else None,
        extract={key: value for key, value in extract.items() if key != "share_decode"},
        share_decode=extract.get("share_decode", False),
        of_model=_by_name(
            top.get("model", {}), MODEL, known=top["models"], kind="model", where=where
        ),
        of_dataset=_by_name(
            top.get("dataset", {}), DATASET, known=top["datasets"], kind="dataset", where=where
        ),
        probe=_check(top.get("probe", {}), PROBE, where=f"{where}: [probe]"),
        report=_check(top.get("report", {}), REPORT, where=f"{where}: [report]"),
        engine=top.get("engine", "local"),
        ray_address=top.get("address"),
    )
    _check_names(study, where)
    return study


def _check(
    raw: Any, table: Table, *, where: str, elsewhere: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the checked table; `elsewhere` maps a key to the table where it belongs."""
    if not isinstance(raw, dict):
        raise OptionError(f"{where}: expected a table of keys and values, got {raw!r}")
    for key, value in raw.items():
        if key not in table:
            hint = f"(it belongs to {elsewhere[key]})" if elsewhere and key in elsewhere else ""
            raise UnknownNameError(f"key in {where}", key, table, hint=hint)
        fits, expected = table[key]
        if not fits(value):
            raise OptionError(f"{where}: {key}: expected {expected}, got {value!r}")
    return dict(raw)


def _by_name(
    raw: dict[str, Any], table: Table, *, known: list[str], kind: str, where: str
) -> dict[str, Mapping[str, Any]]:
    for name in raw:
        if name not in known:
            raise UnknownNameError(
                f"table in {where}",
                f"{kind}.{name}",
                [f"{kind}.{k}" for k in known],
                hint=f"(it is not among {kind}s)",
            )
    return {
        name: _check(value, table, where=f"{where}: [{kind}.{name}]", elsewhere=TABLE_OF_KEY)
        for name, value in raw.items()
    }


def _heads(
    raw: list[Any], *, grid: dict[str, Any], protocol: TrainConfig, where: str
) -> tuple[HeadPlan, ...]:
    """Return the heads in order. Raises OptionError for a duplicate."""
    heads: dict[str, HeadPlan] = {}
    for number, table in enumerate(raw, 1):
        place = f"{where}: [[heads]] number {number}"
        given = _check(table, HEAD, where=place)
        for words in product(*(_as_list(given.get(key)) for key in ("head", "layers", "tokens"))):
            one = given | {
                key: word
                for key, word in zip(("head", "layers", "tokens"), words, strict=True)
                if word is not None
            }
            head = _head(one, grid=grid, protocol=protocol, where=place)
            if head.name in heads:
                raise OptionError(f"{place}: {head.name!r} is in this file twice")
            heads[head.name] = head
    return tuple(heads.values())


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _head(
    given: dict[str, Any], *, grid: dict[str, Any], protocol: TrainConfig, where: str
) -> HeadPlan:
    if "head" not in given:
        raise OptionError(f"{where}: head is missing: one of {', '.join(HEADS)}")
    head = given["head"]
    if head not in HEADS:
        raise UnknownNameError(f"head in {where}", head, HEADS)
    every = head == "attentive-tokens"
    layers, tokens = (
        given.get("layers", "last" if every else "all"),
        given.get("tokens", "all" if every else "cls+ap"),
    )
    for key, words in (("layers", layers), ("spatial_layers", given.get("spatial_layers", "last"))):
        if words not in LAYER_WORDS and not re.fullmatch(r"\d+(,\d+)*", words):
            raise UnknownNameError(
                f"{key} in {where}", words, LAYER_WORDS, hint='(or numbers, as in "1,5,9")'
            )
    for key, words in (("tokens", tokens), ("spatial", given.get("spatial", "grid:2"))):
        for word in words.replace(",", "+").split("+"):
            if not TOKEN_KIND.fullmatch(word.strip()):
                raise UnknownNameError(
                    f"{key} in {where}", word, ("cls", "ap", "grid:K", "patch", "all")
                )
    if (head == "hybrid") != ("spatial" in given):
        raise OptionError(
            f"{where}: {'a hybrid head needs' if head == 'hybrid' else f'a {head} head has no'} "
            "spatial tokens (key spatial)"
        )
    if head in BASELINES and set(given) & {*GRID, "epochs"}:
        raise OptionError(
            f"{where}: {head} is a baseline with its own configurations: "
            f"leave out {', '.join(sorted(set(given) & {*GRID, 'epochs'}))}"
        )
    own = grid | {key: given[key] for key in GRID if key in given}
    if given.get("epochs", 1) < 1:
        raise OptionError(f"{where}: epochs: expected at least 1, got {given['epochs']}")
    train_config = replace(protocol, epochs=given.get("epochs", protocol.epochs))
    rest = {
        key: value
        for key, value in given.items()
        if key not in ("head", "layers", "tokens", "epochs", *GRID)
    }
    configs = () if head in BASELINES else _configs(own, head, where)
    return HeadPlan(
        head=head,
        layers=layers,
        tokens=tokens.replace(",", "+"),
        configs=configs,
        train_config=train_config,
        options=rest,
    )


def _configs(grid: Mapping[str, Any], head: str, where: str) -> tuple[HParams, ...]:
    def values(key: str, default: tuple[float, ...]) -> tuple[float, ...]:
        value = grid.get(key, default)
        return (
            tuple(float(v) for v in value) if isinstance(value, list | tuple) else (float(value),)
        )

    dropout = (0.0,) if head == "linear" else values("dropout", DROPOUTS)
    try:
        return make_grid(
            lr=values("lr", LEARNING_RATES),
            weight_decay=values("weight_decay", WEIGHT_DECAYS),
            dropout=dropout,
        )
    except LayercacheError as error:
        raise OptionError(f"{where}: grid: {error}") from error


def _protocol(raw: Any, *, where: str) -> TrainConfig:
    given = _check(raw, PROTOCOL, where=where)
    if "noise" in given:
        noise = given["noise"]
        given["noise"] = (
            None if noise is False else Noise(**_check(noise, NOISE, where=f"{where}: noise"))
        )
    try:
        return TrainConfig(**given)
    except LayercacheError as error:
        raise OptionError(f"{where}: {error}") from error


def _seeds(value: Any, *, where: str) -> tuple[int, ...]:
    seeds = tuple(range(value)) if isinstance(value, int) else tuple(value)
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise OptionError(
            f"{where}: seeds: expected a number of seeds (at least 1) or different numbers from 0, "
            f"got {value!r}"
        )
    return seeds


def _check_names(study: Study, where: str) -> None:
    """Check the names of models and datasets, the engine and its address."""
    try:
        check_engine(study.engine, study.ray_address)
    except LayercacheError as error:
        raise OptionError(f"{where}: {error}") from error
    for model in study.models:
        if model not in MODELS:
            import timm  # takes seconds, so only for names outside our catalogue

            if not timm.is_model(model):
                raise UnknownNameError(f"model in {where}", model, [*MODELS, *timm.list_models()])
    for dataset in study.datasets:
        source = study.source(dataset)
        kind, colon, place = source.partition(":")
        if (
            not (colon and place and any(form.startswith(f"{kind}:") for form in SOURCE_FORMS))
            and source not in DATASETS
        ):
            raise UnknownNameError(
                f"dataset in {where}",
                source,
                DATASETS,
                hint=f"(or one of your own: {', '.join(SOURCE_FORMS)})",
            )
