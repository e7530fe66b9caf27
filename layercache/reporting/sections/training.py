"""Learning curves of the probes that train by epochs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import pandas as pd

from layercache.errors import CacheCorruptError
from layercache.probing.metrics import find_metric
from layercache.probing.results.config_score import config_key
from layercache.probing.results.probe_store import Probe
from layercache.reporting.analysis.gains import ordered_kinds, select_kind
from layercache.reporting.analysis.published import BASELINE, FUSION, ProbeKind
from layercache.reporting.data.combination import Combination
from layercache.reporting.data.report_data import ReportData
from layercache.reporting.page import Block, FigureBlock, Section, Table
from layercache.reporting.plotting.learning_curves import CurvePanel, learning_curves

logger = logging.getLogger(__name__)

TITLE = "Learning curves"
MAX_PANELS = 4
"""Probes that are drawn for each backbone and dataset: fusion, the baseline, then the others."""


def training_section(data: ReportData) -> Section | None:
    """Draw the curves of some probes of each combination; None if no probe has any."""
    blocks: list[Block] = []
    for combination in data.detailed:
        blocks += _combination(data, combination)
    return Section(title=TITLE, blocks=blocks) if blocks else None


def _combination(data: ReportData, combination: Combination) -> list[Block]:
    rows = data.standard[data.standard["combination"] == combination.key]
    kinds = ordered_kinds(rows)
    first = [kind for kind in (FUSION, BASELINE) if kind in kinds]
    panels: list[CurvePanel] = []
    tables: list[pd.DataFrame] = []
    for kind in first + [kind for kind in kinds if kind not in first]:
        row = select_kind(rows, kind).sort_values("seed").iloc[0]
        probe = data.probes[row["probe"]]
        if len(panels) < MAX_PANELS and (panel := _panel(probe, kind)) is not None:
            panels.append(panel)
            tables.append(_selected_curves(panel, probe.spec["grid"], kind))
    if not panels:
        return []
    metric = find_metric(combination.target.metric)
    unit = ", %" if metric.percent else ""
    figure = learning_curves(
        panels,
        title=f"Learning curves: {combination.name}",
        score=f"{metric.title}{unit}",
        factor=100 if metric.percent else 1,
    )
    caption = (
        "Mean training loss of each epoch (logarithmic), and the validation score where it was "
        "computed, of every configuration of the search and of the final fit, for the first seed. "
        "Losses of heads with dropout and noise are those of training, not of evaluation."
    )
    if any(panel.title.startswith("fusion") for panel in panels):
        caption += (
            " The loss of fusion is the sum over both branches (and a learned gate); that of a "
            "final fit of one branch alone is the loss of this branch."
        )
    frame = pd.concat(tables, ignore_index=True)
    text = f"{combination.name}: curves of the selected configurations."
    name = f"learning-curves-{combination.slug}"
    return [
        FigureBlock(name=name, figure=figure, caption=caption),
        Table(name=name, frame=frame, caption=text, max_rows=0),
    ]


def _panel(probe: Probe, kind: ProbeKind) -> CurvePanel | None:
    """Return the curves of a probe, or None without them or with another metric that selects."""
    try:
        curves = probe.curves()
    except CacheCorruptError as error:
        logger.warning("no learning curves of a damaged probe: %s", error)
        return None
    if curves is None or not curves.train_loss.size or probe.spec.get("select"):
        return None
    grid = [config_key(hparams) for hparams in probe.spec["grid"]]
    selected = grid.index(config_key({name: probe.row[name] for name in probe.spec["grid"][0]}))
    return CurvePanel(title=str(kind), curves=curves, selected=selected)


def _selected_curves(
    panel: CurvePanel, grid: Sequence[Mapping[str, float]], kind: ProbeKind
) -> pd.DataFrame:
    """Return the curves of the selected configuration, in the search and in the final fit."""
    table = panel.curves.to_frame(grid, selected=grid[panel.selected])
    selected = table[table["config"] == panel.selected].drop(columns="config")
    named: pd.DataFrame = selected.assign(**vars(kind))[[*vars(kind), *selected.columns]]
    return named
