"""Keys of a study file, table by table, with the check of each value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Check = tuple[Callable[[Any], bool], str]
"""Predicate of a value, and the expected value in words."""
Table = Mapping[str, Check]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _list_of(one: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(map(one, value))


TEXT: Check = (lambda value: isinstance(value, str) and bool(value), "a text in quotes")
TEXTS: Check = (_list_of(TEXT[0]), 'a list of texts, as in ["a", "b"]')
WHOLE: Check = (lambda value: _is_whole(value) and value >= 0, "a whole number")
NUMBER: Check = (_is_number, "a number")
NUMBERS: Check = (
    lambda value: _is_number(value) or _list_of(_is_number)(value),
    "a number or a list of numbers",
)
FLAG: Check = (lambda value: isinstance(value, bool), "true or false")
WORDS: Check = (
    lambda value: TEXT[0](value) or TEXTS[0](value),
    "a text in quotes, or a list of them",
)
TABLE: Check = (lambda value: isinstance(value, dict), "a table")
TABLES: Check = (_list_of(TABLE[0]), "tables [[heads]], one per column")
NOISE_OR_NOT: Check = (
    lambda value: isinstance(value, dict) or value is False,
    "a table such as { std = 0.05, probability = 0.5 }, or false",
)
SEEDS: Check = (
    lambda value: _is_whole(value) or _list_of(_is_whole)(value),
    "a number of seeds, or a list of whole numbers",
)

TOP: Table = {
    "name": TEXT,
    "models": TEXTS,
    "datasets": TEXTS,
    "seeds": SEEDS,
    "out": TEXT,
    "cache": TEXT,
    "engine": TEXT,
    "address": TEXT,
    "heads": TABLES,
    **dict.fromkeys(("grid", "protocol", "extract", "model", "dataset", "probe", "report"), TABLE),
}
GRID_KEYS: Table = {"lr": NUMBERS, "weight_decay": NUMBERS, "dropout": NUMBERS}
HEAD: Table = {
    **dict.fromkeys(("head", "layers", "tokens"), WORDS),
    **dict.fromkeys(("spatial", "spatial_layers"), TEXT),
    **GRID_KEYS,
    "epochs": WHOLE,
    "heads": WHOLE,
    "embedding": FLAG,
    "shots": WHOLE,
    "fraction": NUMBER,
}
NOISE: Table = {"std": NUMBER, "probability": NUMBER}
PROTOCOL: Table = {
    **dict.fromkeys(("epochs", "min_steps", "batch", "min_batches", "patience"), WHOLE),
    "clip": NUMBER,
    "lr_end": NUMBER,
    "class_weights": FLAG,
    "noise": NOISE_OR_NOT,
}
_FORWARD: Table = {"batch_size": WHOLE, "workers": WHOLE}
MODEL: Table = {
    **dict.fromkeys(
        ("weights", "tap", "precision", "storage_dtype", "store_dtype", "device"), TEXT
    ),
    **dict.fromkeys(("projected", "paper_compat", "compile", "deterministic"), FLAG),
    **_FORWARD,
}
DATASET: Table = {
    **dict.fromkeys(("source", "root", "on_error"), TEXT),
    "download": FLAG,
    "limit": WHOLE,
    "limit_seed": WHOLE,
    **_FORWARD,
}
EXTRACT: Table = {
    **{
        key: check
        for key, check in {**MODEL, **DATASET}.items()
        if key not in ("weights", "source")
    },
    "layers": TEXT,
    **dict.fromkeys(("compressor", "codec"), TEXT),
    **dict.fromkeys(("wait_for_lock", "wait"), FLAG),
    "share_decode": FLAG,
}
PROBE: Table = {
    "device": TEXT,
    "precision": TEXT,
    "features": TEXT,
    "memory": TEXT,
    "disk_cache": TEXT,
    "group_size": WHOLE,
}
REPORT: Table = {"per_head": FLAG, "details": WHOLE, "cka_images": WHOLE}

TABLE_OF_KEY: Mapping[str, str] = {
    **dict.fromkeys(DATASET, "[dataset.NAME]"),
    **dict.fromkeys(MODEL, "[model.NAME]"),
    **dict.fromkeys(_FORWARD, "[extract], [model.NAME] or [dataset.NAME]"),
    **dict.fromkeys(
        ("layers", "compressor", "codec", "wait_for_lock", "wait", "share_decode"), "[extract]"
    ),
    **dict.fromkeys(PROTOCOL, "[protocol]"),
    **dict.fromkeys(GRID_KEYS, "[grid]"),
}
"""Table where a key belongs, for the error about one in another table."""
