"""Logs the samples that have no target, before a probe trains without them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from layercache.cache.reading.split import Split
from layercache.cache.storage.paths import CachePath
from layercache.probing.spec import ProbeSpec

logger = logging.getLogger(__name__)

MINUS_ONE = "-1"
"""Name of the class of integers -1, which some tables write where a value is missing."""


def log_missing_targets(
    specs: Sequence[ProbeSpec], splits: Mapping[tuple[CachePath, str], Split]
) -> None:
    """Log which samples are left out of training and of each test, once for each split.

    Args:
        specs: Probes to train.
        splits: Their splits, by the cache's folder and name.

    Raises:
        ProbeError: A split has no targets, or a further test set no class of the head.
        UnknownNameError: The cache of a further test set lacks a column of the target.
    """
    lines: dict[str, None] = {}
    for spec in specs:
        cache, target = spec.tokens.cache, spec.resolved_target
        if not target.is_label and MINUS_ONE in target.classes:
            lines[
                f"{target.describe_columns()}: -1 is a class; leave the field empty where a value "
                "is missing"
            ] = None
        for name in (*spec.train_splits, spec.test_split):
            lines[target.describe_missing(splits[cache.path, name])] = None
        for test in spec.further_tests:
            lines |= dict.fromkeys(test.describe_left_out(target, cache=cache))
    for line in filter(None, lines):
        logger.info("%s", line)
