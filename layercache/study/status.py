"""What of a study is there already, told from the records on disk alone: no backbone is loaded and no data set opened.

So it may be wrong where a checkpoint or a data set's files have changed under their name; the run itself looks closer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from layercache.cache.cache import Cache
from layercache.cache.find import find_caches
from layercache.cache.format.selection import parse_layers
from layercache.cache.storage.paths import cache_root
from layercache.errors import LayercacheError
from layercache.probing.heads import HeadSpec
from layercache.probing.results.probe_store import PROBES, Probe, read_probes
from layercache.probing.spec import BASELINES, select_tokens
from layercache.study.plan import PlannedExtraction, PlannedProbe

PARTS = ("train", "test")
"""Splits that a probe reads."""


def find_cache(cell: PlannedExtraction) -> Cache | None:
    """A complete cache of this model and data set with these options; of several the one that was made last."""
    found = [
        c
        for c in find_caches(cache_root(cell.options.cache), cell.model, cell.cached_name)
        if _matches(c, cell) and _complete(c)
    ]
    return max(found, key=lambda c: c.begun_at, default=None)


def find_probes(cell: PlannedProbe, cache: Cache, beside: Cache | None = None) -> list[Probe]:
    """The probes of this cell beside the cache, one per seed at most."""
    hybrid = (
        {
            "spatial": cell.head.options["spatial"],
            "spatial_layers": cell.head.options.get("spatial_layers", "last"),
        }
        if beside
        else {}
    )
    try:
        tokens = select_tokens(
            cache,
            head=cell.head.head,
            layers=cell.head.layers,
            tokens=cell.head.tokens,
            spatial_cache=beside,
            **hybrid,
        )
    except LayercacheError:
        return []  # the run will say why
    return [
        probe
        for probe in read_probes(cache.path / PROBES)
        if probe.pairs == tokens.pairs and _same_training(probe, cell)
    ]


def _matches(cache: Cache, cell: PlannedExtraction) -> bool:
    spec, options = cache.spec, cell.options
    return (
        (spec.tap, spec.precision, spec.storage_dtype, spec.projected)
        == (options.tap, options.precision, options.storage_dtype, options.projected)
        and spec.dataset.limit == options.limit
        and (options.limit is None or spec.dataset.limit_seed == options.seed)
        and spec.layers == parse_layers(str(options.layers), spec.depth)
        and kinds(spec.tokens) == kinds_asked(str(options.tokens))
    )


def kinds(names: Sequence[str]) -> set[str]:
    """Kinds of stored names; every patch token counts as "all", which holds the class token."""
    found = {"all" if name.startswith("patch/") else name.split("/")[0] for name in names}
    return found - {"cls"} if "all" in found else found


def kinds_asked(words: str) -> set[str]:
    """Kinds in "cls+ap"."""
    found = {word.strip() for word in re.split("[+,]", words)}
    return found - {"cls"} if "all" in found else found


def _complete(cache: Cache) -> bool:
    return all(cache.complete(split) for split in PARTS if split in cache.spec.dataset.splits)


def _same_training(probe: Probe, cell: PlannedProbe) -> bool:
    spec, head = probe.spec, cell.head
    own = head.options
    same = (
        spec["head"] == head.head
        and spec["seed"] in cell.seeds
        and spec["shots"] == own.get("shots")
        and spec["train_fraction"] == own.get("fraction")
        and (spec["head_spec"]["embedding_ids"] is not None) == own.get("embedding", False)
    )
    if not same or head.head in BASELINES:
        return bool(same)
    return bool(
        spec["grid"] == [vars(setting) for setting in head.settings]
        and spec["train_config"] == _as_json(asdict(head.protocol))
        and spec["precision"] == cell.options.get("precision", "fp32")
        and _same_num_heads(spec["head_spec"], requested=own.get("heads"))
    )


def _same_num_heads(head_spec: dict[str, Any], *, requested: int | None) -> bool:
    """Return whether a head has the requested number of attention heads, None for the default."""
    kind = head_spec["kind"]
    if kind == "linear" or (kind == "hybrid" and requested is None):
        return True  # the default of a hybrid head depends on its tokens
    default = HeadSpec(**{**head_spec, "embedding_ids": None, "num_heads": 0})
    return bool(head_spec["num_heads"] == (requested or default.num_heads))


def _as_json(value: dict[str, object]) -> dict[str, object]:
    """Tuples as the lists that JSON makes of them."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in value.items()}
