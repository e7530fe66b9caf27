"""Attention of the attentive head on all layers: heatmaps by dataset, and for each combination."""

from __future__ import annotations

import numpy as np
import pandas as pd

from layercache.reporting.analysis.attention_weights import (
    AttentionMap,
    arrange_attention,
    average_attention,
)
from layercache.reporting.analysis.published import FUSION
from layercache.reporting.data.combination import Combination
from layercache.reporting.data.display_names import slugify
from layercache.reporting.data.report_data import ReportData
from layercache.reporting.formatting import format_percent
from layercache.reporting.page import Block, CommandHint, FigureBlock, Section, Table, Text
from layercache.reporting.plotting.attention_heatmap import attention_heatmap, attention_overview
from layercache.reporting.plotting.heatmap_cells import token_label

TITLE = "Attention of the attentive head on all layers"


def attention_section(data: ReportData) -> Section:
    """Draw attention by dataset for each backbone, then for each combination with its deviation."""
    maps = {
        combination: attention
        for combination in data.combinations.values()
        if (attention := load_attention(data, combination)) is not None
    }
    if not maps:
        hint = CommandHint(
            text="No attentive head on all layers has been trained yet. To train one:",
            commands=[data.probe_command(c, FUSION) for c in data.detailed[:3]],
        )
        return Section(title=TITLE, blocks=[hint])
    blocks: list[Block] = []
    for model in dict.fromkeys(combination.model_label for combination in maps):
        blocks += _by_dataset(model, {c: m for c, m in maps.items() if c.model_label == model})
    for combination in data.detailed:
        if combination in maps:
            blocks += _one_combination(combination, maps[combination], per_head=data.per_head)
    if not data.per_head:
        blocks.append(
            CommandHint(
                text="To draw the attention of each head:",
                commands=[f"layercache report --per-head --out DIR{data.cache_option}"],
            )
        )
    return Section(title=TITLE, blocks=blocks)


def load_attention(data: ReportData, combination: Combination) -> AttentionMap | None:
    """Return the mean attention of the attentive probes on all layers, or None without one."""
    weights = [probe.attention() for probe in data.probes_of(combination, FUSION)]
    if not weights:
        return None
    return average_attention([arrange_attention(w.mean, w.std, pairs=w.pairs) for w in weights])


def _by_dataset(model: str, maps: dict[Combination, AttentionMap]) -> list[Block]:
    """Draw one backbone on all datasets, if there are several with the same tokens."""
    first = next(iter(maps.values()))
    if len(maps) < 2 or any(
        (m.layers, m.tokens) != (first.layers, first.tokens) for m in maps.values()
    ):
        return []
    figure = attention_overview(
        np.stack([m.mean_lt for m in maps.values()]),
        rows=[combination.name.replace(f"{model} on ", "") for combination in maps],
        layers=first.layers,
        tokens=first.tokens,
        title=f"Attention of {model} by dataset",
    )
    caption = (
        "Percentage of attention on each token: mean over attention heads and test images; each "
        "row adds up to 100."
    )
    name = f"attention-{slugify(model)}"
    return [FigureBlock(name=name, figure=figure, caption=caption)]


def _one_combination(
    combination: Combination, attention: AttentionMap, *, per_head: bool
) -> list[Block]:
    mean_lt = attention.mean_lt
    n_heads = len(attention.mean_hlt)
    below_last = 1 - float(np.nansum(mean_lt[-1]))
    uniform = 1 - 1 / len(attention.layers)
    layer, token = np.unravel_index(np.nanargmax(mean_lt), mean_lt.shape)
    text = (
        f"{combination.name}: {format_percent(below_last)} of the attention is on layers below the "
        f"last ({format_percent(uniform)} if it were uniform); most is on "
        f"{token_label(attention.tokens[token])} of layer {attention.layers[layer]} "
        f"({format_percent(float(mean_lt[layer, token]))})."
    )
    figure = attention_heatmap(
        mean_lt,
        layers=attention.layers,
        tokens=attention.tokens,
        deviation=attention.std_lt,
        title="Attention of the attentive head on all layers",
        subtitle=f"{combination.name}: mean over {n_heads} attention heads and the test images",
    )
    caption = (
        "Mean attention in percent, and below it the standard deviation over heads and test images "
        "together. The line in the colour bar marks uniform attention."
    )
    blocks: list[Block] = [
        Text(text=text),
        FigureBlock(name=f"attention-{combination.slug}", figure=figure, caption=caption),
    ]
    if per_head:
        figure = attention_overview(
            attention.mean_hlt,
            rows=[f"head {h + 1}" for h in range(n_heads)],
            layers=attention.layers,
            tokens=attention.tokens,
            title=f"Attention by head: {combination.name}",
        )
        caption = "Mean attention of each attention head in percent; each row adds up to 100."
        name = f"attention-heads-{combination.slug}"
        blocks.append(FigureBlock(name=name, figure=figure, caption=caption))
    table = Table(
        name=f"attention-{combination.slug}",
        frame=_attention_table(attention),
        caption="Attention by head.",
        max_rows=0,
    )
    return [*blocks, table]


def _attention_table(attention: AttentionMap) -> pd.DataFrame:
    """Return one row per head, layer and token kind; head "all" is the mean over heads."""
    heads = [("all", attention.mean_lt, attention.std_lt)]
    for h, (mean, std) in enumerate(zip(attention.mean_hlt, attention.std_hlt, strict=True), 1):
        heads.append((str(h), mean, std))
    rows = [
        {"head": head, "layer": layer, "token": token, "mean": mean[i, j], "std": std[i, j]}
        for head, mean, std in heads
        for i, layer in enumerate(attention.layers)
        for j, token in enumerate(attention.tokens)
    ]
    return pd.DataFrame(rows)
