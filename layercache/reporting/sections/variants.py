"""Choices within the method: which layers, which tokens, how many attention heads, how few training images."""

from __future__ import annotations

import pandas as pd

from layercache.reporting.data import ReportData, Source
from layercache.reporting.gains import cell_order, gains, pick
from layercache.reporting.page import Block, CommandHint, FigureBlock, Heading, Section
from layercache.reporting.plotting.curves import lines
from layercache.reporting.published import BASELINE, FUSION, Cell
from layercache.reporting.sections.gains import gain_plate

SUBSETS = tuple(
    Cell(head="attentive", layers=layers, tokens="cls+ap")
    for layers in ("last", "mid-last", "quarter", "all")
)
KINDS = tuple(
    Cell(head="attentive", layers="all", tokens=tokens) for tokens in ("cls", "ap", "cls+ap")
)
SHOTS = "1,2,5,10,20"


def variant_section(material: ReportData) -> Section:
    """One figure per choice, or the command that allows it."""
    blocks = [
        *_cells(material, "subsets", cells=SUBSETS, heading="Which layers"),
        *_cells(material, "tokens", cells=KINDS, heading="CLS, AP or both"),
        *_others(material),
        *_heads(material),
        *_shots(material),
    ]
    return Section(title="Choices within the method", blocks=blocks)


def _cells(
    material: ReportData, name: str, *, cells: tuple[Cell, ...], heading: str
) -> list[Block]:
    found = cell_order(gains(material.main))
    there = [c for c in cells if c in found]
    blocks: list[Block] = [Heading(text=heading)]
    if len(there) > 1:
        blocks.append(
            gain_plate(material, name, cells=there, title=f"{heading}: gain in balanced accuracy")
        )
    source = material.detailed[0] if material.detailed else None
    absent = [c for c in cells if c not in there]
    if absent:
        text = (
            "Not there yet:"
            if len(there) > 1
            else "At least two of these are needed for a figure. Not there yet:"
        )
        blocks.append(CommandHint(text=text, commands=[_repeated(material, source, absent)]))
    return blocks


def _repeated(material: ReportData, source: Source | None, cells: list[Cell]) -> str:
    """One command for cells that differ in layers, or in tokens: the options can be repeated."""
    layers, tokens = (
        list(dict.fromkeys(getattr(c, name) for c in cells)) for name in ("layers", "tokens")
    )
    return material.command(
        source,
        Cell(
            head=cells[0].head, layers=" --layers ".join(layers), tokens=" --tokens ".join(tokens)
        ),
    )


def _others(material: ReportData) -> list[Block]:
    """Heads beyond the paper's: hybrid, nearest neighbours, logistic regression."""
    cells = [c for c in cell_order(gains(material.main)) if c.head in ("hybrid", "knn", "logreg")]
    if not cells:
        return []
    return [
        Heading(text="Other heads"),
        gain_plate(
            material,
            "other-heads",
            cells=[*cells[:5], FUSION],
            title="Other heads: gain in balanced accuracy",
        ),
    ]


def _heads(material: ReportData) -> list[Block]:
    """Accuracy over the number of attention heads."""
    t = material.table
    t = pick(t[t["shots"].isna() & t["fraction"].isna()], FUSION)
    t = t.assign(heads=[_head_count(material, str(p)) for p in t["probe"]])
    means = t.groupby(["source", "heads"])["accuracy"].mean().unstack()
    several = means[means.notna().sum(axis=1) > 1].dropna(axis="columns", how="all")
    blocks: list[Block] = [Heading(text="How many attention heads")]
    if several.empty:
        text = "The paper's number is one head per token. For other numbers:"
        source = material.detailed[0] if material.detailed else None
        return [
            *blocks,
            CommandHint(
                text=text,
                commands=[
                    material.command(source, FUSION, more=f" --heads {n}") for n in (1, 4, 8)
                ],
            ),
        ]
    series = {
        material.sources[str(key)].name: 100 * several.loc[key].to_numpy(dtype=float)
        for key in several.index[:8]
    }
    figure = lines(
        [int(h) for h in several.columns],
        series=series,
        xlabel="attention heads",
        title="Number of attention heads",
        ratio=True,
    )
    return [
        *blocks,
        FigureBlock(
            name="heads",
            figure=figure,
            caption="Balanced accuracy of the attentive fusion of all layers with more or fewer attention heads.",
        ),
    ]


def _head_count(material: ReportData, probe: str) -> int:
    return int(material.probes[probe].row["num_heads"])


def _shots(material: ReportData) -> list[Block]:
    """Few-shot curves of the fusion head and the baseline, one figure per source."""
    blocks: list[Block] = [Heading(text="Few training images")]
    few = material.table[
        material.table["shots"].notna()
        & material.table["attention_heads"].isna()
        & material.table["fraction"].isna()
    ]
    for each in material.detailed:
        mine = few[few["source"] == each.key]
        if mine["shots"].nunique() > 1:
            blocks.append(_shot_plate(each, mine))
    if len(blocks) == 1:
        source = material.detailed[0] if material.detailed else None
        commands = [
            material.command(source, c, more=f" --shots {SHOTS}") for c in (BASELINE, FUSION)
        ]
        blocks.append(
            CommandHint(
                text="There are no few-shot probes with at least two sizes yet. These make them:",
                commands=commands,
            )
        )
    return blocks


def _shot_plate(source: Source, rows: pd.DataFrame) -> FigureBlock:
    shots = sorted(rows["shots"].unique())
    series, spread = {}, {}
    for cell in cell_order(rows)[:6]:
        grouped = pick(rows, cell).groupby("shots")["accuracy"]
        series[str(cell)] = 100 * grouped.mean().reindex(shots).to_numpy(dtype=float)
        spread[str(cell)] = 100 * grouped.std().reindex(shots).to_numpy(dtype=float)
    figure = lines(
        shots,
        series=series,
        spread=spread,
        xlabel="training images per class",
        title=f"Few training images: {source.name}",
        ratio=True,
    )
    caption = "Balanced accuracy on the whole test split after training on a few images of each class. Bands: standard deviation over seeds."
    return FigureBlock(name=f"shots-{source.stem}", figure=figure, caption=caption)
