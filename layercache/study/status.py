"""Finds the complete jobs of a study from its records, without loading a backbone or dataset.

It may be wrong if a checkpoint or the files of a dataset have changed under the same name; the run
itself checks them.
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
from layercache.probing.results.lookup import read_all_probes
from layercache.probing.results.probe_store import Probe
from layercache.probing.spec import BASELINES, select_tokens
from layercache.study.plan import PlannedExtraction, PlannedProbe

SPLITS = ("train", "test")
"""Splits that a probe reads."""


def find_cache(job: PlannedExtraction) -> Cache | None:
    """Return the newest complete cache of this model and dataset with these options, or None."""
    caches = [
        c
        for c in find_caches(cache_root(job.options.cache), job.model, job.cached_name)
        if _matches(c, job) and _complete(c)
    ]
    return max(caches, key=lambda c: c.begun_at, default=None)


def find_probes(job: PlannedProbe, cache: Cache, spatial_cache: Cache | None = None) -> list[Probe]:
    """Return the probes of this job stored, at most one per seed."""
    hybrid = (
        {
            "spatial": job.head.options["spatial"],
            "spatial_layers": job.head.options.get("spatial_layers", "last"),
        }
        if spatial_cache
        else {}
    )
    try:
        tokens = select_tokens(
            cache,
            head=job.head.head,
            layers=job.head.layers,
            tokens=job.head.tokens,
            spatial_cache=spatial_cache,
            **hybrid,
        )
    except LayercacheError:
        return []  # the run itself reports the error
    return [
        probe
        for probe in read_all_probes(cache, job.options.get("probes_root"))
        if probe.pairs == tokens.pairs and _same_training(probe, job)
    ]


def _matches(cache: Cache, job: PlannedExtraction) -> bool:
    spec, options = cache.spec, job.options
    return (
        (spec.tap, spec.precision, spec.storage_dtype, spec.projected)
        == (options.tap, options.precision, options.storage_dtype, options.projected)
        and spec.preprocessing.get("background", "drop") == options.background
        and spec.dataset.limit == options.limit
        and (options.limit is None or spec.dataset.limit_seed == options.seed)
        and spec.layers == parse_layers(str(options.layers), spec.depth)
        and stored_kinds(spec.tokens) == requested_kinds(str(options.tokens))
    )


def stored_kinds(names: Sequence[str]) -> set[str]:
    """Return the kinds of stored token names; patch tokens count as "all", which includes "cls"."""
    kinds = {"all" if name.startswith("patch/") else name.split("/")[0] for name in names}
    return kinds - {"cls"} if "all" in kinds else kinds


def requested_kinds(words: str) -> set[str]:
    """Return the token kinds in a text such as "cls+ap"."""
    kinds = {word.strip() for word in re.split("[+,]", words)}
    return kinds - {"cls"} if "all" in kinds else kinds


def _complete(cache: Cache) -> bool:
    return all(cache.complete(split) for split in SPLITS if split in cache.spec.dataset.splits)


def _same_training(probe: Probe, job: PlannedProbe) -> bool:
    spec, head = probe.spec, job.head
    options = head.options
    same = (
        spec["head"] == head.head
        and spec["seed"] in job.seeds
        and spec["shots"] == options.get("shots")
        and spec["train_fraction"] == options.get("train_fraction")
        and (spec["head_spec"]["embedding_ids"] is not None) == options.get("embedding", False)
    )
    if not same or head.head in BASELINES:
        return bool(same)
    return bool(
        spec["grid"] == [vars(config) for config in head.configs]
        and spec["train_config"] == _as_json(asdict(head.train_config))
        and spec["precision"] == job.options.get("precision", "fp32")
        and _same_num_heads(spec["head_spec"], requested=options.get("num_heads"))
    )


def _same_num_heads(head_spec: dict[str, Any], *, requested: int | None) -> bool:
    """Return whether a head has the requested number of attention heads, None for the default."""
    kind = head_spec["kind"]
    if kind == "linear" or (kind == "hybrid" and requested is None):
        return True  # the default of a hybrid head depends on its tokens
    default = HeadSpec(**{**head_spec, "embedding_ids": None, "num_heads": 0})
    return bool(head_spec["num_heads"] == (requested or default.num_heads))


def _as_json(value: dict[str, object]) -> dict[str, object]:
    """Return the values with tuples as lists, as JSON stores them."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in value.items()}
