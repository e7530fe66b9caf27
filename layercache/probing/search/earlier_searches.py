"""Finds probes of the same search that were tested on other samples."""

from __future__ import annotations

import logging

from layercache.cache.storage.paths import CachePath
from layercache.probing.options import Options
from layercache.probing.progress import describe
from layercache.probing.results.identity import search_key
from layercache.probing.results.lookup import read_all_probes
from layercache.probing.results.probe_store import Probe
from layercache.probing.spec import ProbeSpec

logger = logging.getLogger(__name__)


class EarlierSearches:
    """The complete probes of caches by their search; those of a cache are read once."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._by_search: dict[CachePath, dict[str, Probe]] = {}

    def find(self, spec: ProbeSpec) -> Probe | None:
        """Return a complete probe that was selected in the same way and tested on other samples.

        Its scores spare the search; only the selected configuration is trained again. Probes that
        are tested on the split "test" alone are not looked up: they come first.
        """
        usual = ProbeSpec.test_split, ()
        if self._options.refresh or (spec.test_split, spec.further_tests) == usual:
            return None
        cache = spec.tokens.cache
        if cache.path not in self._by_search:
            probes = read_all_probes(cache, self._options.probes_root)
            self._by_search[cache.path] = {search_key(probe.spec): probe for probe in probes}
        probe = self._by_search[cache.path].get(search_key(spec.to_json()))
        if probe is not None:
            logger.info(
                "%s: selected as probe %s, so only the final fit and the tests are to be done",
                describe(spec),
                probe.id,
            )
        return probe
