"""Probes of superseded annotations: a column that they used has another version now, or is gone.

Such a probe answers another question than the probes of the current version, so the two are never
listed, averaged or compared together.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from layercache._units import pluralize
from layercache.cache.cache import Cache, load_cache
from layercache.cache.find import cache_folders
from layercache.errors import CacheCorruptError, CacheError
from layercache.probing.results.probe_store import Probe

logger = logging.getLogger(__name__)

MAX_LISTED = 3
DROPPED = "dropped"
"""Stands for the version of a column that no longer exists."""


def choose_versions(
    cache: Cache, probes: Sequence[Probe], *, superseded: bool = False
) -> list[Probe]:
    """Return the probes of the current annotations of a cache, or the others.

    Those that are left out are counted in a warning, except current ones.

    Args:
        cache: The cache of the probes.
        probes: Its probes.
        superseded: Return the probes of superseded annotations instead.
    """
    try:
        current = cache.annotation_digests
    except CacheCorruptError as error:
        logger.warning("probes of superseded annotations cannot be identified: %s", error)
        return [] if superseded else list(probes)
    others = _digests_of_test_caches(cache, probes)
    old = {
        probe.id: changes
        for probe in probes
        if (changes := [*_changes(probe, current), *_changes_of_tests(probe, others)])
    }
    if old and not superseded:
        counts = Counter(change for changes in old.values() for change in changes)
        listed = ", ".join(change for change, _ in counts.most_common(MAX_LISTED))
        remedy = "the same `layercache probe` trains them on the current ones"
        if any(change.endswith(DROPPED) for change in counts):
            remedy += ", once `layercache annotate` has added dropped columns again"
        logger.warning(
            "%s: %s of superseded annotations left out (%s); `layercache results --superseded` "
            "lists them, and %s",
            cache.path,
            pluralize(len(old), "probe"),
            listed,
            remedy,
        )
    return [probe for probe in probes if (probe.id in old) == superseded]


def _changes(probe: Probe, current: Mapping[str, str]) -> list[str]:
    """Return in words which columns of a probe have another version now."""
    return _differing(probe.spec.get("annotations", {}), current)


def _changes_of_tests(probe: Probe, others: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return in words which columns of its test caches have another version now.

    Args:
        probe: The probe.
        others: Fingerprint -> versions of the columns, of the test caches that were found.
    """
    return [
        f"{change} of {test['name']}"
        for test in probe.spec.get("tests", [])
        if test.get("fingerprint") in others
        for change in _differing(test["annotations"], others[test["fingerprint"]])
    ]


def _digests_of_test_caches(cache: Cache, probes: Sequence[Probe]) -> dict[str, Mapping[str, str]]:
    """Return fingerprint -> versions of the columns, of the test caches below the same root."""
    fingerprints = {
        test["fingerprint"]
        for probe in probes
        for test in probe.spec.get("tests", [])
        if "fingerprint" in test
    }
    if not fingerprints:
        return {}
    root = cache.path.parents[2]
    names = {fingerprint[: len(cache.path.name)]: fingerprint for fingerprint in fingerprints}
    found = {}
    for folder in cache_folders(root):
        if fingerprint := names.get(folder.name):
            try:
                found[fingerprint] = load_cache(folder).annotation_digests
            except CacheError as error:
                logger.warning("versions of the labels of a test cache are not known: %s", error)
    return found


def _differing(used: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    return [
        f"{name} {digest}, now {current.get(name, DROPPED)}"
        for name, digest in used.items()
        if current.get(name) != digest
    ]


def describe_versions(probes: Iterable[Probe]) -> list[str]:
    """Return a line for every annotation of which the probes used several versions.

    Such probes are of different caches, or all of superseded annotations.
    """
    versions: dict[tuple[str, str], Counter[str]] = {}
    for probe in probes:
        for name, digest in probe.spec.get("annotations", {}).items():
            key = (str(probe.row["dataset"]), name)
            versions.setdefault(key, Counter())[digest] += 1
    return [
        f"not comparable: {name} of {dataset} in several versions: "
        + ", ".join(f"{digest} ({pluralize(n, 'probe')})" for digest, n in counts.items())
        for (dataset, name), counts in versions.items()
        if len(counts) > 1
    ]
