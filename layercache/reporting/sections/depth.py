"""What every layer is worth: where the fusion head looks, and a probe on each single layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layercache.reporting.attention import AttentionMap, arrange, average
from layercache.reporting.data import ReportData, Source
from layercache.reporting.gains import accuracies, pick
from layercache.reporting.page import Block, CommandHint, FigureBlock, Heading, Section, Table, Text
from layercache.reporting.plotting.curves import lines
from layercache.reporting.plotting.heatmaps import (
    attention_heatmap,
    attention_overview,
    token_label,
)
from layercache.reporting.published import BASELINE, FUSION, Cell
from layercache.reporting.words import percent

SINGLE_TOKENS = ("cls", "ap")


def attention_section(material: ReportData) -> Section:
    """Heatmaps of the fusion head's attention: by data set for each backbone, then each pair on its own with its deviation."""
    title = "Where the fusion head looks"
    maps = {
        key: found
        for key, source in material.sources.items()
        if (found := attention_map(material, source)) is not None
    }
    if not maps:
        commands = [material.command(source, FUSION) for source in material.detailed[:3]]
        return Section(
            title=title,
            blocks=[
                CommandHint(
                    text="No attentive fusion head has been trained yet. This trains one:",
                    commands=commands,
                )
            ],
        )
    blocks: list[Block] = []
    for model in dict.fromkeys(material.sources[key].model for key in maps):
        mine = {key: m for key, m in maps.items() if material.sources[key].model == model}
        first = next(iter(mine.values()))
        if len(mine) > 1 and all(
            (m.layers, m.tokens) == (first.layers, first.tokens) for m in mine.values()
        ):
            names = [material.sources[key].name.replace(f"{model} on ", "") for key in mine]
            weights = np.stack([m.mean_lt for m in mine.values()])
            figure = attention_overview(
                weights,
                datasets=names,
                layers=first.layers,
                tokens=first.tokens,
                title=f"Attention of {model} by data set",
            )
            caption = "Percent of the attention that each token receives: mean over attention heads and test images; a row adds up to 100."
            blocks.append(
                FigureBlock(
                    name=f"attention-{model.replace('.', '-')}", figure=figure, caption=caption
                )
            )
    for source in material.detailed:
        if source.key in maps:
            blocks += _one_attention(source, maps[source.key], per_head=material.per_head)
    if not material.per_head:
        blocks.append(
            CommandHint(
                text="The same head by head is drawn on demand:",
                commands=[f"layercache report --per-head --out DIR{material.at}"],
            )
        )
    return Section(title=title, blocks=blocks)


def attention_map(material: ReportData, source: Source) -> AttentionMap | None:
    """Attention of the fusion probes of a source, averaged over seeds; None without one."""
    found = [probe.attention() for probe in material.of(source, FUSION)]
    return average([arrange(a.mean, a.std, pairs=a.pairs) for a in found]) if found else None


def _one_attention(source: Source, found: AttentionMap, *, per_head: bool) -> list[Block]:
    mean, deviation = found.mean_lt, found.deviation_lt
    below = 1 - float(np.nansum(mean[-1]))
    heads = len(found.mean_hlt)
    even = 1 - 1 / len(found.layers)
    top = np.unravel_index(np.nanargmax(mean), mean.shape)
    most = f"{token_label(found.tokens[top[1]])} of layer {found.layers[top[0]]}"
    text = (
        f"{source.name}: {percent(below)} of the attention goes to layers below the last (an even spread would give them {percent(even)}); "
        f"most to {most} ({percent(float(mean[top]))})."
    )
    subtitle = f"{source.name}: mean over {heads} attention heads and the test images"
    figure = attention_heatmap(
        mean, layers=found.layers, tokens=found.tokens, deviation=deviation, subtitle=subtitle
    )
    caption = (
        "Mean attention, in percent of all; below it the standard deviation over heads and test images together. The line in the colour bar marks "
        "what every token would get if all got the same."
    )
    blocks: list[Block] = [
        Text(text=text),
        FigureBlock(name=f"attention-{source.stem}", figure=figure, caption=caption),
    ]
    if per_head:
        names = [f"head {h + 1}" for h in range(heads)]
        title = f"Attention head by head: {source.name}"
        by_head = attention_overview(
            found.mean_hlt, datasets=names, layers=found.layers, tokens=found.tokens, title=title
        )
        caption = "The same for every attention head on its own; a row adds up to 100."
        blocks.append(
            FigureBlock(name=f"attention-heads-{source.stem}", figure=by_head, caption=caption)
        )
    return [
        *blocks,
        Table(
            name=f"attention-{source.stem}",
            frame=_attention_rows(found),
            caption="Attention head by head.",
            max_rows=0,
            decimals=5,
        ),
    ]


def _attention_rows(found: AttentionMap) -> pd.DataFrame:
    """Long form: one row per head, layer and token kind, "all" for the mean over heads."""
    rows = []
    per_head = [
        (str(h + 1), found.mean_hlt[h], found.std_hlt[h]) for h in range(len(found.mean_hlt))
    ]
    for head, mean, std in [("all", found.mean_lt, found.deviation_lt), *per_head]:
        for i, layer in enumerate(found.layers):
            rows += [
                {"head": head, "layer": layer, "token": t, "mean": mean[i, j], "std": std[i, j]}
                for j, t in enumerate(found.tokens)
            ]
    return pd.DataFrame(rows)


def depth_section(material: ReportData) -> Section:
    """A probe on each single layer, the fusion head as a line across."""
    blocks: list[Block] = []
    for source in material.detailed:
        curves = single_layers(material, source)
        there = {token: values for token, values in curves.items() if np.isfinite(values).sum() > 1}
        if there:
            blocks.append(_depth_plate(material, source, there))
            frame = pd.DataFrame(
                {
                    "layer": range(1, source.depth + 1),
                    **{f"{token}": 100 * values for token, values in curves.items()},
                }
            )
            blocks.append(
                Table(
                    name=f"depth-{source.stem}",
                    frame=frame,
                    caption=f"{source.name}: balanced accuracy of each single layer, %.",
                    max_rows=0,
                )
            )
        if missing := _missing_layers(material, source, curves):
            blocks += [] if there else [Heading(text=source.name)]
            blocks.append(missing)
    return Section(
        title="A probe on every single layer",
        blocks=blocks or [CommandHint(text="There is no cache to probe.")],
    )


def single_layers(material: ReportData, source: Source) -> dict[str, NDArray[np.float64]]:
    """Token kind -> (depth,) accuracies of linear probes on one layer each; NaN where there is none."""
    table = accuracies(material.main[material.main["source"] == source.key])
    found = {}
    for token in SINGLE_TOKENS:
        values = np.full(source.depth, np.nan)
        for layer in range(1, source.depth + 1):
            rows = pick(table, single_cell(layer, token, depth=source.depth))
            if len(rows):
                values[layer - 1] = rows["accuracy"].iloc[0]
        found[token] = values
    return found


def single_cell(layer: int, token: str, *, depth: int) -> Cell:
    """A linear probe on one token of one layer."""
    return Cell(head="linear", layers="last" if layer == depth else str(layer), tokens=token)


def _depth_plate(
    material: ReportData, source: Source, curves: dict[str, NDArray[np.float64]]
) -> FigureBlock:
    table = accuracies(material.main[material.main["source"] == source.key])
    levels = {}
    for name, cell in (("fusion of all", FUSION), ("last CLS", BASELINE)):
        rows = pick(table, cell)
        if len(rows):
            levels[name] = 100 * float(rows["accuracy"].iloc[0])
    figure = lines(
        list(range(1, source.depth + 1)),
        series={token_label(token): 100 * values for token, values in curves.items()},
        xlabel="layer",
        title=f"A probe on each single layer: {source.name}",
        levels=levels,
    )
    best = max(
        (float(np.nanmax(values)), token, int(np.nanargmax(values)) + 1)
        for token, values in curves.items()
    )
    caption = (
        f"Balanced accuracy on the test images of a linear probe that sees one token of one layer. The best is {token_label(best[1])} of "
        f"layer {best[2]} with {percent(best[0])}."
    )
    if "fusion of all" in levels:
        caption += f" The attentive fusion of all layers reaches {levels['fusion of all']:.1f} %."
    return FigureBlock(name=f"depth-{source.stem}", figure=figure, caption=caption)


def _missing_layers(
    material: ReportData, source: Source, curves: dict[str, NDArray[np.float64]]
) -> CommandHint | None:
    """The commands that make the single-layer probes that are not there."""
    spec = source.cache.spec
    commands = []
    for token, values in curves.items():
        absent = (
            [layer for layer in spec.layers if np.isnan(values[layer - 1])]
            if token in spec.tokens
            else []
        )
        if absent:
            cell = Cell(head="linear", layers=" --layers ".join(map(str, absent)), tokens=token)
            commands.append(material.command(source, cell))
    return (
        CommandHint(
            text=f"For {source.name} these single layers have no probe yet:", commands=commands
        )
        if commands
        else None
    )
