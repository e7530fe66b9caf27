"""Reading of all probes below a root, or of one cache, as `Results`."""

from __future__ import annotations

from shlex import quote

from layercache.cache.cache import Cache
from layercache.cache.find import find_caches
from layercache.cache.format.origin import dataset_source
from layercache.cache.storage.paths import CachePath, cache_root, root_option
from layercache.errors import ProbeNotFoundError
from layercache.probing.results.lookup import read_all_probes
from layercache.probing.results.table.columns import sort_key
from layercache.probing.results.table.table import Results


def read_results(
    where: str | CachePath | Cache | None = None,
    *,
    dataset: str | None = None,
    probes_root: str | CachePath | None = None,
    superseded: bool = False,
) -> Results:
    """Load all complete probes, sorted by dataset, model, head, layers, tokens and seed.

    Probes that are damaged or that another version wrote are left out and named in a warning, and
    those of superseded annotations are counted in one.

    Args:
        where: A cache root (None: the default one), or a cache.
        dataset: Only caches of this dataset, by its name or its source as in "folder:PATH".
        probes_root: Root of probes outside their caches; default $LAYERCACHE_PROBES.
        superseded: Load only probes of annotations that have another version now.

    Raises:
        ProbeNotFoundError: There is none.
    """
    caches = (
        [where] if isinstance(where, Cache) else find_caches(cache_root(where), dataset=dataset)
    )
    probes = [
        probe
        for cache in caches
        for probe in read_all_probes(cache, probes_root, superseded=superseded)
    ]
    if not probes and superseded:
        raise ProbeNotFoundError("no probe is of superseded annotations")
    if not probes:
        raise _no_probes(where, dataset)

    return Results(sorted(probes, key=sort_key))


def _no_probes(where: str | CachePath | Cache | None, dataset: str | None) -> ProbeNotFoundError:
    of_dataset = option = existing = ""
    if isinstance(where, Cache):
        folder, root = where.path, where.path.parent.parent.parent
        option = f" --fingerprint {where.spec.fingerprint[:12]}"
    else:
        folder = root = cache_root(where)
        if dataset is not None:
            dataset = dataset_source(dataset)
            of_dataset, option = f" of dataset {dataset!r}", f" --dataset {quote(dataset)}"
            names = {cache.source or cache.spec.dataset.name for cache in find_caches(folder)}
            existing = f" (there are caches of {', '.join(sorted(names)) or 'none'})"
    return ProbeNotFoundError(
        f"{folder}: expected probes{of_dataset} below this folder, got none{existing}: train one "
        f"with `layercache probe{option}{root_option(root)}`, or give another cache root (--cache)"
    )
