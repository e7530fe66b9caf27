"""Lookup of the probes of a cache, and of one probe by its id."""

from __future__ import annotations

import re
from contextlib import suppress

from layercache.cache.cache import Cache
from layercache.cache.find import find_caches
from layercache.cache.format.result_folders import RETRAIN_HINT
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import (
    CachePath,
    RemotePath,
    as_cache_path,
    cache_root,
    root_option,
)
from layercache.errors import (
    CacheCorruptError,
    ProbeAmbiguousError,
    ProbeNotFoundError,
    ProbeSchemaError,
)
from layercache.probing.results.identity import LABEL, target_name
from layercache.probing.results.locations import probe_folders
from layercache.probing.results.probe_folder import ProbeFolder
from layercache.probing.results.probe_store import Probe, read_probe, read_probes
from layercache.probing.results.superseded_probes import choose_versions

MAX_SHOWN = 10
"""Number of probes that an error lists."""


def remove_probes_elsewhere(cache: Cache, probes_root: str | CachePath | None = None) -> int:
    """Delete the probes of a cache that are kept outside of it; return their number.

    Args:
        cache: The cache.
        probes_root: Root of probes outside their caches; default $LAYERCACHE_PROBES.

    Raises:
        CacheBusyError: Another process is training one of them.
    """
    removed = 0
    for folder in probe_folders(cache, probes_root)[:-1]:
        for name in open_store(folder).list_dirs("."):
            with suppress(ProbeNotFoundError):
                ProbeFolder(folder / name).remove()
                removed += 1
    return removed


def read_stored(
    cache: Cache, probe_id: str, probes_root: str | CachePath | None = None
) -> Probe | None:
    """Load a complete probe of a cache from where it is kept, or return None if there is none.

    Args:
        cache: The cache.
        probe_id: Id of the probe.
        probes_root: Root of probes outside their caches; default $LAYERCACHE_PROBES.
    """
    probes = (
        read_probe(folder / probe_id, fingerprint=cache.spec.fingerprint)
        for folder in probe_folders(cache, probes_root)
    )
    return next((probe for probe in probes if probe is not None), None)


def read_all_probes(
    cache: Cache, probes_root: str | CachePath | None = None, *, superseded: bool = False
) -> list[Probe]:
    """Load the complete probes of a cache from every place where they are kept, by id.

    Probes that are damaged or that another version wrote are left out and named in a warning, and
    those of superseded annotations are counted in one.

    Args:
        cache: The cache.
        probes_root: Root of probes outside their caches; default $LAYERCACHE_PROBES.
        superseded: Load the probes of superseded annotations instead.
    """
    found = {
        probe.id: probe
        for folder in reversed(probe_folders(cache, probes_root))
        for probe in read_probes(folder, fingerprint=cache.spec.fingerprint)
    }
    probes = [found[name] for name in sorted(found)]
    return choose_versions(cache, probes, superseded=superseded)


def find_probe(
    probe: str | CachePath,
    *,
    root: str | CachePath | None = None,
    probes_root: str | CachePath | None = None,
) -> CachePath:
    """Return the folder of a probe that is given by its id, the beginning of it, or its path.

    Args:
        probe: The id, which `results` shows, or its first digits; or a path, returned as it is.
        root: Root of the caches, as in `open_cache`.
        probes_root: Root of probes outside their caches; default $LAYERCACHE_PROBES.

    Raises:
        ProbeNotFoundError: No probe has this id.
        ProbeAmbiguousError: Several ids begin like this; the message lists them.
    """
    if isinstance(probe, RemotePath):
        return probe
    path = as_cache_path(probe)
    is_id = re.fullmatch("[0-9a-f]{1,12}", str(probe))
    if isinstance(path, RemotePath) or path.exists() or not is_id:
        return path
    base = cache_root(root)
    folders: dict[str, CachePath] = {}
    for cache in find_caches(base):
        for folder in reversed(probe_folders(cache, probes_root)):
            for name in open_store(folder).list_dirs("."):
                if name.startswith(str(probe)):
                    folders[name] = folder / name
    if not folders:
        raise ProbeNotFoundError(
            f"{probe}: there is no such file, and no probe below {base} has an id that begins with "
            f"it; `layercache results{root_option(base)}` lists the probes with their ids"
        )
    if len(folders) > 1:
        names = sorted(folders)
        lines = [f"  {name}: {describe_probe(folders[name])}" for name in names[:MAX_SHOWN]]
        if len(names) > MAX_SHOWN:
            lines.append(f"  and {len(names) - MAX_SHOWN} more")
        raise ProbeAmbiguousError(
            "\n".join(
                [
                    f"{len(names)} probes have an id that begins with {probe}; give more digits:",
                    *lines,
                ]
            )
        )
    return next(iter(folders.values()))


def load_probe(
    probe: str | CachePath,
    *,
    root: str | CachePath | None = None,
    probes_root: str | CachePath | None = None,
) -> Probe:
    """Load a complete probe that is given by its id, the beginning of it, or its folder.

    >>> layercache.load_probe("c9a9").metrics("roc_auc")  # doctest: +SKIP

    Args:
        probe: As in `find_probe`.
        root: Root of the caches, as in `open_cache`.
        probes_root: Root of probes outside their caches; default $LAYERCACHE_PROBES.

    Raises:
        ProbeNotFoundError: There is no such probe, or it is not complete.
        ProbeAmbiguousError: Several ids begin like this; the message lists them.
        CacheCorruptError: Its record is damaged.
        ProbeSchemaError: Another version of layercache wrote it.
    """
    folder = find_probe(probe, root=root, probes_root=probes_root)
    found = read_probe(folder)
    if found is None:
        raise ProbeNotFoundError(
            f"{folder}: expected the folder of a complete probe, with its probe.json; "
            "`layercache results` lists the probes with their ids"
        )
    return found


def read_members(probe: Probe, *, root: str | CachePath | None = None) -> list[tuple[Probe, float]]:
    """Load the members of an ensemble that its pool uses, each with the factor of its logits.

    Args:
        probe: The ensemble; its members are next to it, or below the root of the caches.
        root: Root of the caches, as in `open_cache`.

    Raises:
        ProbeNotFoundError: A member was deleted.
        CacheCorruptError: The record names no factors.
    """
    coefficients = probe.configs[0].hparams if probe.configs else {}
    members = []
    for member in probe.spec["ensemble"]["members"]:
        if coefficient := coefficients.get(member["probe"]):
            beside = read_probe(probe.path.parent / member["probe"])
            members.append((beside or load_probe(member["probe"], root=root), coefficient))
    if not members:
        raise CacheCorruptError(
            f"{probe.path}: its record gives no member a factor: "
            f"{RETRAIN_HINT.format(folder=probe.path)}"
        )
    return members


def describe_probe(folder: CachePath) -> str:
    """Return what the probe in a folder is, in a few words."""
    try:
        probe = read_probe(folder)
    except (CacheCorruptError, ProbeSchemaError):
        return f"not readable, {folder}"
    if probe is None:
        return f"not complete, {folder}"
    row, name = probe.row, target_name(probe.spec)
    target = "" if name == LABEL else f"target {name}, "
    return (
        f"{row['model']} on {row['dataset']}, {row['head']}, layers {row['layers']}, "
        f"tokens {row['tokens']}, {target}seed {row['seed']}"
    )
