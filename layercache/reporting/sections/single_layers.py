"""Linear probes on single layers: accuracy over depth, with lines at the other heads."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layercache.reporting.analysis.gains import mean_accuracies, select_kind
from layercache.reporting.analysis.published import BASELINE, FUSION, ProbeKind
from layercache.reporting.data.combination import Combination
from layercache.reporting.data.report_data import ReportData
from layercache.reporting.formatting import capitalize, format_percent
from layercache.reporting.page import Block, CommandHint, FigureBlock, Heading, Section, Table
from layercache.reporting.plotting.curves import lines
from layercache.reporting.plotting.heatmap_cells import token_label

TITLE = "Probes on single layers"
SINGLE_TOKENS = ("cls", "ap")
"""Token kinds that are probed one layer at a time."""

Curves = dict[str, NDArray[np.float64]]
"""Token kind -> accuracy of each layer, (depth,); NaN without a probe."""


def single_layer_section(data: ReportData) -> Section:
    """Draw the accuracy of each single layer, and list the commands for missing probes."""
    blocks: list[Block] = []
    for combination in data.detailed:
        curves = single_layer_accuracies(data, combination)
        drawn = {t: values for t, values in curves.items() if np.isfinite(values).sum() > 1}
        if drawn:
            frame = pd.DataFrame({"layer": range(1, combination.depth + 1)})
            for token, values in curves.items():
                frame[token] = 100 * values
            caption = f"{combination.name}: {data.metric} of each single layer in percent."
            table = Table(
                name=f"depth-{combination.slug}", frame=frame, caption=caption, max_rows=0
            )
            blocks += [_figure(data, combination, drawn), table]
        commands = _missing_commands(data, combination, curves)
        if commands:
            if not drawn:
                blocks.append(Heading(text=combination.name))
            text = f"These single layers of {combination.name} have no probe yet:"
            blocks.append(CommandHint(text=text, commands=commands))
    return Section(title=TITLE, blocks=blocks or [CommandHint(text="There is no cache to probe.")])


def single_layer_accuracies(data: ReportData, combination: Combination) -> Curves:
    """Return the accuracies of linear probes on one token of one layer each."""
    means = _mean_accuracies(data, combination)
    curves = {}
    for token in SINGLE_TOKENS:
        values = np.full(combination.depth, np.nan)
        for layer in range(1, combination.depth + 1):
            layers = "last" if layer == combination.depth else str(layer)
            rows = select_kind(means, ProbeKind(head="linear", layers=layers, tokens=token))
            if len(rows):
                values[layer - 1] = rows["accuracy"].iloc[0]
        curves[token] = values
    return curves


def _mean_accuracies(data: ReportData, combination: Combination) -> pd.DataFrame:
    return mean_accuracies(data.standard[data.standard["combination"] == combination.key])


def _figure(data: ReportData, combination: Combination, curves: Curves) -> FigureBlock:
    means = _mean_accuracies(data, combination)
    levels = {}
    for label, kind in (("fusion of all", FUSION), ("last CLS", BASELINE)):
        rows = select_kind(means, kind)
        if len(rows):
            levels[label] = 100 * float(rows["accuracy"].iloc[0])
    figure = lines(
        list(range(1, combination.depth + 1)),
        series={token_label(token): 100 * values for token, values in curves.items()},
        xlabel="layer",
        title=f"Probes on single layers: {combination.name}",
        levels=levels,
        ylabel=f"{data.metric}, %",
    )
    accuracy, token, layer = max(
        (float(np.nanmax(values)), token, int(np.nanargmax(values)) + 1)
        for token, values in curves.items()
    )
    caption = (
        f"{capitalize(data.metric)} on the test images of a linear probe on one token of one "
        f"layer. The best is {token_label(token)} of layer {layer} with "
        f"{format_percent(accuracy)}."
    )
    if "fusion of all" in levels:
        caption += f" The attentive fusion of all layers reaches {levels['fusion of all']:.1f} %."
    return FigureBlock(name=f"depth-{combination.slug}", figure=figure, caption=caption)


def _missing_commands(data: ReportData, combination: Combination, curves: Curves) -> list[str]:
    """Return one command per token kind that trains the missing probes on single layers."""
    spec = combination.cache.spec
    commands = []
    for token, values in curves.items():
        missing = [str(layer) for layer in spec.layers if np.isnan(values[layer - 1])]
        if token in spec.tokens and missing:
            kind = ProbeKind(head="linear", layers=" --layers ".join(missing), tokens=token)
            commands.append(data.probe_command(combination, kind))
    return commands
