"""Remarks on probes that a careful reader needs, as lines below the results table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from layercache._units import join_words, pluralize
from layercache.probing.heads.fusion import FUSION_VERSION, SHARE
from layercache.probing.heads.spec import LAYERS, SPATIAL
from layercache.probing.metrics import Metric, selection_metric_of
from layercache.probing.results.config_score import (
    ConfigScore,
    config_columns,
    is_pair,
    join_pair,
    metrics_of_branch,
    split_pair,
)
from layercache.probing.results.encoder_attention import attention_by_encoder
from layercache.probing.results.probe_store import Probe
from layercache.probing.results.table.formatting import score_metric

LOWEST_POSSIBLE = {"weight_decay": 0.0, "dropout": 0.0, "k": 1.0}
"""Values below which there are none, so that a grid cannot be wider there."""
HIGHEST_POSSIBLE = {"shrinkage": 1.0}
"""Values above which there are none."""
BRANCHES = {0.0: "the layers", 1.0: "the spatial tokens"}
"""Branch that a fusion head consists of, by the share of the spatial one."""
MAX_LISTED = 6


def describe_selection(probes: Iterable[Probe]) -> list[str]:
    """Return lines on fusion heads, edges of the grid and failed convergence."""
    edges: Counter[str] = Counter()
    unconverged: Counter[str] = Counter()
    branches: Counter[str] = Counter()
    n_earlier = 0
    for probe in probes:
        if probe.spec["head_spec"]["kind"] == "fusion":
            n_earlier += probe.spec.get("fusion_version") != FUSION_VERSION
        if (share := probe.row.get("spatial_share")) in BRANCHES:
            branches[BRANCHES[share]] += 1
        edges.update(f"{name.replace('_', ' ')} {value:g}" for name, value in at_edge(probe))
        if probe.row.get("converged") is False:
            unconverged[str(probe.row["config"])] += 1
    lines = []
    if branches:
        lines.append("validation chose one branch alone for fusion: " + _listed(branches))
    if n_earlier:
        lines.append(
            f"{pluralize(n_earlier, 'fusion probe')} of an earlier version, trained or selected "
            "in another way: the same `layercache probe` trains current ones and keeps both"
        )
    if edges:
        lines.append(
            "selected at the edge of the grid, a wider one may score higher: " + _listed(edges)
        )
    if unconverged:
        lines.append("logistic regression stopped before it converged: " + _listed(unconverged))
    return lines


def describe_leakage(probes: Iterable[Probe]) -> list[str]:
    """Return a line on test samples that are training samples too, "" for none."""
    shared: Counter[str] = Counter()
    for probe in probes:
        for test, end in [(probe.tests[0], ""), *((name, f"@{name}") for name in probe.tests[1:])]:
            rows = probe.row.get(f"test_rows_in_train{end}") or 0
            groups = probe.row.get(f"test_groups_in_train{end}") or 0
            total = probe.row.get(f"test_rows{end}")
            parts = [f"{rows} of {total} images"] if rows else []
            parts += [pluralize(groups, "group")] if groups else []
            if parts:
                shared[f"{join_words(parts)} of {test}"] += 1
    if not shared:
        return []
    return [f"leakage, in train and in test: {_listed(shared)}"]


def describe_encoders(probes: Iterable[Probe]) -> list[str]:
    """Return a line for each probe that joins encoders: the attention on each of them."""
    lines = []
    for probe in probes:
        if parts := attention_by_encoder(probe):
            shares = [f"{part.name} {100 * part.share:.1f} %" for part in parts]
            lines.append(f"attention by encoder, {probe.id}: {join_words(shares)}")
    if len(lines) > MAX_LISTED:
        lines = [*lines[:MAX_LISTED], f"and {len(lines) - MAX_LISTED} more (layercache report)"]
    return lines


def describe_scores(columns: Sequence[str]) -> list[str]:
    """Return lines on the unit and the direction of the scores in these columns."""
    found = [metric for name in columns if (metric := score_metric(name)) is not None]
    metrics = list({metric.name: metric for metric in found}.values())
    in_percent = [metric.title for metric in metrics if metric.percent]
    lines = []
    if in_percent:
        others = len(in_percent) < len(metrics)
        lines.append(f"{join_words(in_percent) if others else 'scores'} in percent")
    if lower := [metric.title for metric in metrics if not metric.higher_is_better]:
        lines.append(f"lower is better: {join_words(lower)}")
    return lines


def at_edge(probe: Probe) -> list[tuple[str, float]]:
    """Return the hyperparameters whose selected value is the lowest or highest of the grid.

    Those are left out for which another value scored as well.
    """
    selected = selected_config(probe)
    metric = selection_metric_of(probe.spec)
    if selected is None or metric.name not in (selected.val_metrics or {}):
        return []
    layers, spatial = split_pair(selected.hparams)
    if metric.name not in metrics_of_branch(selected.val_metrics, LAYERS):
        return _at_edge(probe, layers, metric=metric)
    found = []
    share = probe.row.get(SHARE)
    if share != 1:
        found += _at_edge(probe, layers, metric=metric, branch=LAYERS)
    if share != 0:
        of_spatial = _at_edge(probe, spatial or layers, metric=metric, branch=SPATIAL)
        # the table shows them under names of their own if the head has both branches
        found += join_pair({}, dict(of_spatial)).items() if spatial and share != 1 else of_spatial
    return list(dict.fromkeys(found))


def _at_edge(
    probe: Probe, selected: Mapping[str, float], *, metric: Metric, branch: str = ""
) -> list[tuple[str, float]]:
    """Return those of the whole head, or of one branch of a fusion head."""
    found = []
    of_grid = [config for config in probe.configs if not is_pair(config.hparams)]
    for name, value in selected.items():
        scores: dict[float, float] = {}
        for config in of_grid:
            # scores of a part of the training are not comparable; the configuration was dropped
            metrics = config.val_metrics if config.stop_epoch is None else None
            score = metric.to_maximize(metrics_of_branch(metrics, branch))
            # equal votes of a knn baseline are the limit of a high temperature
            tried = config.hparams.get(name, math.inf)
            scores[tried] = max(score, scores.get(tried, score))
        others = [score for tried, score in scores.items() if tried != value]
        at_end = value == max(scores) != HIGHEST_POSSIBLE.get(name) or value == min(
            scores
        ) != LOWEST_POSSIBLE.get(name)
        if others and at_end and scores[value] > max(others):
            found.append((name, value))
    return found


def selected_config(probe: Probe) -> ConfigScore | None:
    """Return the selected configuration of a probe, None if its record does not say which."""
    share = probe.row.get(SHARE)
    # the pair of a fusion head comes last; at a share of 0 or 1 it has the columns of another one
    for config in reversed(probe.configs):
        columns = config_columns(config.hparams, share=share)
        if not config.diverged and all(
            (probe.row.get(name) or None) == (value or None) for name, value in columns.items()
        ):
            return config
    return None


def _listed(counts: Counter[str]) -> str:
    words = [f"{text} ({pluralize(n, 'probe')})" for text, n in counts.most_common(MAX_LISTED)]
    if len(counts) > MAX_LISTED:
        words.append(f"{len(counts) - MAX_LISTED} more")
    return ", ".join(words)
