"""The section that compares probes with the last layer's CLS, and with the paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layercache.cache.find import extract_command
from layercache.reporting.data import ReportData, Source
from layercache.reporting.gains import cell_order, gains, grid, mean_gains, pick
from layercache.reporting.page import Block, CommandHint, FigureBlock, Section, Table, Text
from layercache.reporting.plotting.curves import dot_panels
from layercache.reporting.published import BASELINE, CELLS, FUSION, SOURCE, Cell
from layercache.reporting.words import count, listed

TITLE = "Gains over the last layer's CLS"
MOST_COMMANDS = 12


def gains_section(material: ReportData) -> Section:
    """Figure and tables of gains, and what is missing of the paper's table."""
    per_model = gains(material.main)
    if per_model.empty:
        source = material.detailed[0] if material.detailed else None
        commands = [material.command(source, cell) for cell in (BASELINE, FUSION)]
        text = "A gain needs the baseline and another probe of the same backbone and data. These make them:"
        return Section(
            title=TITLE,
            blocks=[*_without_class_token(material), CommandHint(text=text, commands=commands)],
        )
    means = mean_gains(per_model)
    cells = [c for c in cell_order(means) if c in CELLS] or cell_order(means)[:6]
    caption = f"Balanced accuracy and gains; paper_gain: the mean over nine backbones that the paper publishes ({SOURCE})."
    blocks: list[Block] = [
        gain_plate(material, "gains", cells=cells, title="Gain in balanced accuracy"),
        Table(name="gains-mean", frame=readable(means), view=view(means), caption=caption),
    ]
    caption = f"Every backbone on its own; paper_gain: of that very backbone, where {SOURCE} publishes it."
    frame = readable(per_model.drop(columns=["source"]))
    # with one backbone per data set and nothing published, the page need not say it all twice
    twice = len(per_model) == len(means) and per_model["paper"].isna().all()
    blocks.append(
        Table(
            name="gains",
            frame=frame,
            view=view(per_model),
            caption=caption,
            max_rows=0 if twice else 24,
        )
    )
    blocks += [*_without_class_token(material), *_missing_cells(material)]
    if material.set_aside:
        text = f"Set aside: {count(material.set_aside, 'probe')} of the same kind trained in yet another way (other grid or epochs). To see all:"
        blocks.append(CommandHint(text=text, commands=[f"layercache results{material.at}"]))
    if mixed := mixed_training(material):
        text = f"Compare with care: these probes of one head were not all trained with the same grid and epochs: {'; '.join(mixed)}."
        blocks.append(Text(text=text))
    return Section(title=TITLE, blocks=blocks)


def mixed_training(material: ReportData) -> list[str]:
    """Names of sources and heads whose probes were trained in more than one way."""
    ways = material.main.groupby(["source", "head"], sort=False)["variant"].nunique().reset_index()
    mixed = ways[ways["variant"] > 1]
    return [
        f"{material.sources[str(r.source)].name}, {r.head}" for r in mixed.itertuples(index=False)
    ]


def gain_plate(
    material: ReportData, name: str, *, cells: Sequence[Cell], title: str
) -> FigureBlock:
    """Gains of some cells over the baseline, mean over models, by data set."""
    means = mean_gains(gains(material.main))
    means = pd.concat([pick(means, cell) for cell in cells])
    datasets = list(dict.fromkeys(str(d) for d in means["dataset"]))
    ours, paper = (
        grid(means, column, datasets=datasets, cells=cells) for column in ("gain", "paper")
    )
    spread, whiskers = _spread(material, means, datasets, cells)
    # the longer list goes down the page, unless there are many data sets: they always do
    along = len(datasets) >= len(cells) or len(datasets) > 3
    rows, panels = (
        ([*datasets], [str(c).replace(", ", ",\n") for c in cells])
        if along
        else ([str(c) for c in cells], [*datasets])
    )
    figure = dot_panels(
        ours if along else ours.T,
        rows=rows,
        panels=panels,
        unit="gain, points",
        title=title,
        paper=paper if along else paper.T,
        spread=spread if along else spread.transpose(0, 2, 1),
    )
    n = int(means["models"].max())
    published = (
        f"Hollow: the paper's mean over nine backbones ({SOURCE})."
        if np.isfinite(paper).any()
        else "The paper publishes none of these cells."
    )
    caption = (
        "Percentage points of balanced accuracy that each probe gains over a linear probe on the last layer's CLS token; "
        f"{f'mean over up to {n} backbones' if n > 1 else 'one backbone'}. {whiskers}{published}"
    )
    return FigureBlock(name=name, figure=figure, caption=caption)


def _spread(
    material: ReportData, means: pd.DataFrame, datasets: Sequence[str], cells: Sequence[Cell]
) -> tuple[NDArray[np.float64], str]:
    """Whiskers (2, data sets, cells), down and up, and what they are: deviation over models, or with one model the interval over test images."""
    if int(means["models"].max()) > 1:
        std = grid(means, "gain_std", datasets=datasets, cells=cells)
        return np.stack([std, std]), "Whiskers: standard deviation over backbones. "
    arms = np.full((2, len(datasets), len(cells)), np.nan)
    for source in material.sources.values():
        for j, cell in enumerate(cells):
            if (
                source.dataset in datasets
                and (found := material.bootstrap(source, cell)) is not None
            ):
                arms[:, datasets.index(source.dataset), j] = (
                    100 * (found.gain - found.low),
                    100 * (found.high - found.gain),
                )
    return np.maximum(arms, 0.0), "Whiskers: 95 % of resamples of the test images. " if np.isfinite(
        arms
    ).any() else ""


def view(table: pd.DataFrame) -> pd.DataFrame:
    """For the page: the probe in words, largest gain first within a data set; probes on single layers are left to their own figure."""
    single = table["layers"].str.fullmatch(r"\d+") | (
        (table["layers"] == "last") & (table["tokens"] == "ap") & (table["head"] == "linear")
    )
    kept = readable(table[~single].sort_values("gain", ascending=False)).sort_values(
        "dataset", kind="stable", ignore_index=True
    )
    kept.insert(
        1,
        "probe",
        [
            str(Cell(head=str(r.head), layers=str(r.layers), tokens=str(r.tokens)))
            for r in kept.itertuples(index=False)
        ],
    )
    hidden = [
        "head",
        "layers",
        "tokens",
        "source",
        "of_the_papers_nine",
        *(["models"] if "models" in kept and (kept["models"] == 1).all() else []),
    ]
    return kept.drop(columns=[name for name in hidden if name in kept])


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Shares as percent, and columns that are empty throughout left out."""
    shares = {
        name: 100 * table[name] for name in ("accuracy", "baseline", "seed_std") if name in table
    }
    return (
        table.assign(**shares)
        .rename(columns={"paper": "paper_gain"})
        .dropna(axis="columns", how="all")
    )


def _has_class_token(source: Source) -> bool:
    return any("cls" in cache.spec.tokens for cache in source.caches)


def _without_class_token(material: ReportData) -> list[Block]:
    """Says for which sources there can be no baseline."""
    names = [s.name for s in material.sources.values() if not _has_class_token(s)]
    text = f"No CLS is cached for {listed(names)}: without it there is no baseline and no gain (some backbones have no class token)."
    return [Text(text=text)] if names else []


def _missing_cells(material: ReportData) -> list[Block]:
    """Which of the paper's cells are not there, with one command each."""
    every_token = CELLS[1]
    missing = [
        (s, c)
        for s in material.detailed
        if _has_class_token(s)
        for c in CELLS
        if not material.of(s, c)
    ]
    plain = [material.command(s, c) for s, c in missing if c != every_token]
    blocks: list[Block] = []
    if plain:
        more = (
            f" The first {MOST_COMMANDS} of {len(plain)} commands:"
            if len(plain) > MOST_COMMANDS
            else ""
        )
        blocks.append(
            CommandHint(
                text=f"These cells of the paper's table are not there yet.{more}",
                commands=plain[:MOST_COMMANDS],
            )
        )
    if dense := [s for s, c in missing if c == every_token]:
        text = (
            f"The all-token probe of the last layer is missing for {count(len(dense), 'pair')} of backbone and data set. It needs a cache with every "
            "patch token, which is large: the extraction prints its size first."
        )
        extract = extract_command(dense[0].cache, layers="last", tokens="all")
        blocks.append(
            CommandHint(text=text, commands=[extract, material.command(dense[0], every_token)])
        )
    return blocks
