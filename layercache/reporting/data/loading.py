"""Reads the input of a report: the probes of caches, and the table with a row for each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from layercache.cache.cache import Cache
from layercache.cache.storage.paths import CachePath
from layercache.errors import CacheCorruptError
from layercache.probing.heads import HeadSpec
from layercache.probing.results.lookup import read_all_probes
from layercache.probing.results.probe_store import Probe
from layercache.reporting.analysis.regression import SquaredErrors
from layercache.reporting.data.combination import Combination, find_combinations
from layercache.reporting.data.probe_selection import (
    OPTION_COLUMNS,
    select_probes,
    training_variant,
)
from layercache.reporting.data.report_data import (
    COLUMNS,
    Correctness,
    ReportData,
    ThumbnailLoader,
    read_errors,
)
from layercache.reporting.data.targets import choose_targets, target_of

logger = logging.getLogger(__name__)


def load_report_data(
    caches: Sequence[Cache],
    *,
    root: CachePath | None = None,
    load_thumbnail: ThumbnailLoader | None = None,
    per_head: bool = False,
    cka_images: int = 2000,
    details: int = 12,
    probes: Sequence[Probe] | None = None,
    variant: str | None = None,
    probes_root: str | CachePath | None = None,
    targets: Sequence[str] | None = None,
    metrics: Sequence[str] = (),
) -> ReportData:
    """Read the probes of these caches, or those of them in `probes`. Arguments as in `report`.

    Raises:
        CacheCorruptError: If a record cannot be read.
        OptionError: If no probe was trained in the way of `variant`, or the targets share no page.
    """
    included = None if probes is None else {probe.path for probe in probes}
    found: list[tuple[Probe, Combination]] = []
    errors: dict[str, Correctness | SquaredErrors] = {}
    for combination in find_combinations(caches):
        for cache in combination.caches:
            for probe in read_all_probes(cache, probes_root):
                if included is not None and probe.path not in included:
                    continue
                try:
                    test_errors = read_errors(probe.predictions())
                except CacheCorruptError as e:
                    logger.warning("left out a damaged probe: %s", e)
                    continue
                found.append((probe, combination))
                if test_errors is not None:
                    errors[str(probe.path)] = test_errors
    chosen = choose_targets([probe for probe, _ in found], targets)
    combinations: dict[str, Combination] = {}
    if not found or any(target.is_label for target in chosen):
        combinations = {c.key: c for c in find_combinations(caches)}
    by_folder, rows = {}, []
    others: Counter[str] = Counter()
    for probe, base in found:
        target = target_of(probe.spec)
        if target not in chosen:
            others[target.name] += 1
            continue
        combination = base.with_target(target)
        combinations[combination.key] = combination
        by_folder[str(probe.path)] = probe
        rows.append(table_row(probe, combination))
    selected, left_out = select_probes(rows, by_folder, variant=variant)
    table = pd.DataFrame(selected, columns=COLUMNS)
    return ReportData(
        combinations=combinations,
        probes=by_folder,
        table=table.astype(dict.fromkeys(("accuracy", *OPTION_COLUMNS), float)),
        left_out=left_out,
        other_targets=dict(sorted(others.items())),
        root=root,
        probes_root=probes_root,
        load_thumbnail=load_thumbnail,
        per_head=per_head,
        cka_images=cka_images,
        details=details,
        metrics=metrics,
        errors=errors,
    )


def table_row(probe: Probe, combination: Combination) -> dict[str, Any]:
    """Return the row of a probe, with COLUMNS."""
    spec, row = probe.spec, probe.row
    metric = combination.target.metric
    head_spec = HeadSpec.from_json(spec["head_spec"])
    num_heads, default_num_heads = head_spec.num_heads, replace(head_spec, num_heads=0).num_heads
    tokens = [row["tokens"]]
    if row.get("spatial"):
        tokens.append(row["spatial"])
    if row.get("embedding"):
        tokens.append("embedding")
    if row.get("join"):
        tokens.append(f"{row['model']} ({row['join']})")
    if "ensemble" in spec:  # several pools of one dataset are different kinds of probe
        tokens.append(f"pool {probe.settings.experiment_key[:6]}")
    return {
        "dataset": combination.dataset_label,
        # a name that the paper has stands for the dataset's own label only
        "dataset_name": combination.dataset
        if combination.target.is_label
        else combination.dataset_label,
        "dataset_digest": combination.dataset_digest,
        "model": combination.model_label,
        "weights_digest": combination.weights_digest,
        "combination": combination.key,
        "head": spec["head"],
        "layers": row["layers"],
        "tokens": ", ".join(tokens),
        "seed": int(spec["seed"]),
        "shots": spec["shots"],
        "train_fraction": spec["train_fraction"],
        "num_heads": None if num_heads == default_num_heads else num_heads,
        "accuracy": row[f"test_{metric}"],
        "metric": metric,
        "probe": str(probe.path),
        "variant": training_variant(spec),
    }
