"""Attention of heads that join several encoders: how much is on each of them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from layercache.probing.results.encoder_attention import EncoderAttention, attention_by_encoder
from layercache.reporting.analysis.attention_weights import arrange_attention
from layercache.reporting.data.report_data import ReportData
from layercache.reporting.page import Block, FigureBlock, Section, Table
from layercache.reporting.plotting.attention_heatmap import attention_overview

TITLE = "Attention by encoder"


def encoder_section(data: ReportData) -> Section | None:
    """Show the share of each joined encoder, and where in it the attention lies.

    None without a probe that joins encoders and has attention.
    """
    rows, figures = [], list[Block]()
    for folder, probe in data.probes.items():
        parts = attention_by_encoder(probe)
        if not parts or folder not in set(data.table["probe"]):
            continue
        n_tokens = sum(len(part.pairs) for part in parts)
        rows += [
            {
                "dataset": probe.row["dataset"],
                "probe": probe.id,
                "join": probe.row["join"],
                "seed": probe.row["seed"],
                "encoder": part.name,
                "attention": 100 * part.share,
                "if_uniform": 100 * len(part.pairs) / n_tokens,
                "lowest_head": 100 * float(part.share_h.min()),
                "highest_head": 100 * float(part.share_h.max()),
            }
            for part in parts
        ]
        if len(figures) < data.details and (figure := _figure(probe.id, parts)) is not None:
            figures.append(figure)
    if not rows:
        return None
    caption = (
        "Attention on the tokens of each encoder in percent: mean over attention heads and test "
        "images, and the attention heads with the lowest and the highest share. if_uniform is the "
        "encoder's share of the tokens."
    )
    table = Table(name="attention-encoders", frame=pd.DataFrame(rows), caption=caption, decimals=1)
    return Section(title=TITLE, blocks=[table, *figures])


def _figure(probe: str, parts: list[EncoderAttention]) -> FigureBlock | None:
    """Draw the attention on each layer of each encoder; None if their tokens differ."""
    maps = [arrange_attention(part.mean, part.std, pairs=part.pairs) for part in parts]
    first = maps[0]
    if any((m.layers, m.tokens) != (first.layers, first.tokens) for m in maps):
        return None
    figure = attention_overview(
        np.stack([m.mean_lt for m in maps]),
        rows=[part.name for part in parts],
        layers=first.layers,
        tokens=first.tokens,
        title=f"Attention by encoder and layer: probe {probe}",
    )
    caption = (
        "Percentage of attention on each token: mean over attention heads and test images; all "
        "rows together add up to 100."
    )
    return FigureBlock(name=f"attention-encoders-{probe}", figure=figure, caption=caption)
