"""Finds the complete jobs of a study from its records, without loading a backbone or dataset.

It may be wrong if a checkpoint or the files of a dataset have changed under the same name; the run
itself checks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layercache.cache.cache import Cache
from layercache.cache.find import find_caches
from layercache.cache.format.layers_and_tokens import parse_layers
from layercache.cache.format.token_names import kind_words, requested_kinds
from layercache.cache.storage.paths import cache_root
from layercache.errors import CacheNotFoundError, LayercacheError
from layercache.extraction.models.registry import MODELS
from layercache.probing.plan import plan_probes
from layercache.probing.request import ProbeRequest
from layercache.probing.results.lookup import read_stored
from layercache.probing.results.probe_store import Probe
from layercache.study.plan import PlannedExtraction, PlannedProbe


def find_cache(job: PlannedExtraction) -> Cache | None:
    """Return the newest complete cache of this model and dataset with these options, or None."""
    root, source = cache_root(job.options.cache), str(job.options.dataset)
    try:
        caches = find_caches(root, job.model, source)
    except CacheNotFoundError:  # the source does not exist: the run itself reports it
        return None
    caches = [c for c in caches if _matches(c, job) and _complete(c, job)]
    return max(caches, key=lambda c: c.begun_at, default=None)


def find_probes(job: PlannedProbe, caches: Mapping[tuple[str, ...], Cache]) -> list[Probe]:
    """Return the probes of this job that are stored, at most one per seed.

    Args:
        job: The job.
        caches: Cache of each extraction of the job, by its key.
    """
    opened = job.caches(caches)
    cache = opened.pop("cache")
    try:
        specs = plan_probes(cache, ProbeRequest(**opened, **job.arguments))
        probes = [read_stored(cache, s.id, job.options.get("probes_root")) for s in specs]
    except LayercacheError:
        return []  # the run itself reports the error
    return [probe for probe in probes if probe is not None]


def _matches(cache: Cache, job: PlannedExtraction) -> bool:
    spec, options = cache.spec, job.options
    return (
        (spec.tap, spec.precision, spec.storage_dtype, spec.projected, spec.codec)
        == (
            options.tap,
            options.precision,
            options.storage_dtype,
            options.projected,
            options.store,
        )
        and spec.preprocessing.get("background", "drop") == options.background
        and _has_preprocessing(cache, options.preprocessing.given())
        and spec.dataset.limit == options.limit
        and (options.limit is None or spec.dataset.limit_seed == options.seed)
        and spec.layers == parse_layers(job.layers, spec.depth)
        and _has_kinds(cache, job)
    )


def _has_kinds(cache: Cache, job: PlannedExtraction) -> bool:
    """Return whether a cache holds the requested tokens; "all" may mean patches without CLS."""
    kinds, requested = {*kind_words(cache.spec.tokens)}, requested_kinds(job.tokens)
    may_lack_cls = job.model not in MODELS and "all" in job.tokens.split("+")
    return kinds == requested or (may_lack_cls and kinds == requested - {"cls"})


def _has_preprocessing(cache: Cache, options: dict[str, Any]) -> bool:
    """Return whether a cache was made with these options of the preprocessing."""
    origins = cache.origins
    return any(o.preprocessing == options for o in origins) if origins else not options


def _complete(cache: Cache, job: PlannedExtraction) -> bool:
    splits = job.options.splits or cache.spec.dataset.splits
    return all(cache.complete(split) for split in splits)
