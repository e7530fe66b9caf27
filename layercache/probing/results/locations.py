"""Folders that hold the probes of a cache.

CACHE/probes/<probe id>/                                next to the tokens, or,
PROBES_ROOT/<fingerprint, 12 hex>/probes/<probe id>/    of a cache that is not writable, elsewhere
"""

from __future__ import annotations

import os
from pathlib import Path

from layercache.cache.cache import Cache
from layercache.cache.format.result_folders import PARENT
from layercache.cache.storage.paths import CachePath, as_cache_path
from layercache.errors import OptionError

PROBES_VARIABLE = "LAYERCACHE_PROBES"
"""Environment variable: the root of probes outside their caches."""


def resolve_probes_root(path: str | CachePath | None = None) -> CachePath | None:
    """Return the root of probes outside their caches: `path`, else $LAYERCACHE_PROBES, else None.

    Raises:
        OptionError: It is a file, or an address of an unknown scheme.
    """
    place = path or os.environ.get(PROBES_VARIABLE)
    root = as_cache_path(place) if place else None
    if isinstance(root, Path) and root.is_file():
        name = "probes_root" if path else f"${PROBES_VARIABLE}"
        raise OptionError(f"{name}: expected a folder, got the file {root}")
    return root


def probe_folders(cache: Cache, probes_root: str | CachePath | None = None) -> list[CachePath]:
    """Return the folders with the probes of a cache; new ones are written to the first.

    Args:
        cache: The cache.
        probes_root: Root of probes outside their caches; default $LAYERCACHE_PROBES.
    """
    return folders_of(cache.path, cache.spec.fingerprint, probes_root)


def folders_of(
    path: CachePath, fingerprint: str, probes_root: str | CachePath | None = None
) -> list[CachePath]:
    """Return `probe_folders` of a cache that is not open, by its folder and fingerprint."""
    root = resolve_probes_root(probes_root)
    own = path / PARENT
    return [own] if root is None else [root / fingerprint[:12] / PARENT, own]
