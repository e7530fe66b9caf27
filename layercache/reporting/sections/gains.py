"""Gains over the last layer's CLS, next to those published in the paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layercache._units import join_words, pluralize
from layercache.cache.cache import extract_command
from layercache.reporting.analysis.gains import (
    DATASET_COLUMNS,
    KIND_COLUMNS,
    MODEL_COLUMNS,
    gains_over_baseline,
    mean_gains,
    ordered_kinds,
    row_kinds,
    select_kind,
    to_matrix,
)
from layercache.reporting.analysis.published import BASELINE, FUSION, PAPER, PAPER_KINDS, ProbeKind
from layercache.reporting.data.combination import Combination
from layercache.reporting.data.report_data import ReportData
from layercache.reporting.formatting import capitalize
from layercache.reporting.page import Block, CommandHint, FigureBlock, Section, Table, Text
from layercache.reporting.plotting.curves import gain_panels

TITLE = "Gains over the last layer's CLS"
MAX_COMMANDS = 12
"""Number of commands for missing probes at most."""
ALL_TOKENS = ProbeKind(head="attentive-tokens", layers="last", tokens="all")


def missing_pair(data: ReportData, combination: Combination) -> CommandHint:
    """Return the commands that train what `ReportData.paired_predictions` lacks."""
    missing = [kind for kind in (BASELINE, FUSION) if not data.probes_of(combination, kind)]
    return CommandHint(
        text="This needs the attentive head on all layers and the baseline with the same seed:",
        commands=[data.probe_command(combination, kind) for kind in missing],
    )


def gains_section(data: ReportData) -> Section:
    """Show the gains, and the commands for what is missing of the paper's table."""
    gains = gains_over_baseline(data.standard)
    if gains.empty:
        combination = data.detailed[0] if data.detailed else None
        hint = CommandHint(
            text="A gain needs the baseline and another probe of the same backbone and dataset, "
            "trained in the same way with the same seed. To train them:",
            commands=[data.probe_command(combination, kind) for kind in (BASELINE, FUSION)],
        )
        blocks: list[Block] = [*_without_class_token(data), hint, *_left_out(data)]
        return Section(title=TITLE, blocks=blocks)
    means = mean_gains(gains)
    kinds = ordered_kinds(means)
    kinds = [kind for kind in kinds if kind in PAPER_KINDS] or kinds[:6]
    # with one backbone per dataset and nothing published, both tables are the same
    redundant = len(gains) == len(means) and gains["paper_gain"].isna().all()
    of_mean, of_backbone = "", ""
    if means["paper_gain"].notna().any():
        of_mean = f" paper_gain: mean over nine backbones as published ({PAPER})."
    if means["paper_gain_same_backbones"].notna().any():
        of_mean += " paper_gain_same_backbones: the published mean over the backbones of this row."
    if gains["paper_gain"].notna().any():
        of_backbone = f" paper_gain: gain of the same backbone as published ({PAPER})."
    blocks = [
        gain_figure(data, "gains", kinds=kinds, title=f"Gain in {data.metric}"),
        Table(
            name="gains-mean",
            frame=_readable(means),
            view=_page_view(means),
            caption=f"{capitalize(data.metric)} in percent and gains in points.{of_mean}",
        ),
        Table(
            name="gains",
            frame=_readable(gains.drop(columns=["combination"])),
            view=_page_view(gains),
            caption=f"Each backbone separately.{of_backbone}",
            max_rows=0 if redundant else 24,
        ),
        *_without_class_token(data),
        *_missing_kinds(data),
        *_left_out(data),
    ]
    if others := differently_trained(data):
        text = (
            "Compare with care: these combinations were not trained in the same way (grid, epochs, "
            f"splits ...) as the others: {'; '.join(others)}."
        )
        blocks.append(Text(text=text))
    return Section(title=TITLE, blocks=blocks)


def differently_trained(data: ReportData) -> list[str]:
    """Return the combinations that were not trained in the most common way."""
    trained = data.table[data.table["variant"] != ""]
    variants = trained.groupby("combination", sort=False)["variant"].first()
    if variants.nunique() < 2:
        return []
    usual = variants.value_counts().index[0]
    return [data.combinations[str(key)].name for key in variants[variants != usual].index]


def _left_out(data: ReportData) -> list[Block]:
    """List the probes that are not compared, and why."""
    if not data.left_out:
        return []
    frame = pd.DataFrame(
        [
            {
                "backbone and dataset": data.combinations[left.combination].name,
                "n_probes": left.n_probes,
                "variant": left.variant,
                "difference": left.reason,
            }
            for left in data.left_out
        ]
    )
    caption = (
        "Left out: probes that differ in their training from those above. Of several ways of "
        "training, the newest with the attentive head on all layers and the baseline is reported."
    )
    hint = CommandHint(
        text="To report on another variant:",
        commands=[f"layercache report --variant VARIANT{data.cache_option}"],
    )
    return [Table(name="left-out", frame=frame, caption=caption), hint]


def gain_figure(
    data: ReportData, name: str, *, kinds: Sequence[ProbeKind], title: str
) -> FigureBlock:
    """Draw the gains of some kinds of probe, averaged over models, by dataset."""
    means = mean_gains(gains_over_baseline(data.standard))
    means = pd.concat([select_kind(means, kind) for kind in kinds])
    datasets = list(dict.fromkeys(str(dataset) for dataset in means["dataset"]))
    gains = to_matrix(means, "gain", datasets=datasets, kinds=kinds)
    published, backbones = _published(means, datasets, kinds)
    whiskers, whisker_caption = _whiskers(data, means, datasets, kinds)
    rows, panels = datasets, [str(kind).replace(", ", ",\n") for kind in kinds]
    # the longer list goes down the page, unless there are many datasets: those always do
    if len(datasets) < len(kinds) and len(datasets) <= 3:
        rows, panels = [str(kind) for kind in kinds], datasets
        gains, published, whiskers = gains.T, published.T, whiskers.transpose(0, 2, 1)
    figure = gain_panels(
        gains,
        rows=rows,
        panels=panels,
        title=title,
        published=published,
        whiskers=whiskers,
    )
    n_models = int(means["n_models"].max())
    models = f"mean over up to {n_models} backbones" if n_models > 1 else "one backbone"
    paper = "None of these probes is in the paper."
    if np.isfinite(published).any():
        paper = f"Hollow: the paper's mean over {backbones} ({PAPER})."
    caption = (
        f"Gain in {data.metric} over a linear probe on the last layer's CLS token, in "
        f"percentage points; {models}. {whisker_caption}{paper}"
    )
    return FigureBlock(name=name, figure=figure, caption=caption)


def _published(
    means: pd.DataFrame, datasets: Sequence[str], kinds: Sequence[ProbeKind]
) -> tuple[NDArray[np.float64], str]:
    """Return the published gains (datasets, kinds), NaN for none, and the backbones they are of.

    They are of the same backbones where every dataset of the paper has them, else of all nine.
    """
    same, nine = (
        to_matrix(means, column, datasets=datasets, kinds=kinds)
        for column in ("paper_gain_same_backbones", "paper_gain")
    )
    in_both = np.isfinite(same).any(axis=1) == np.isfinite(nine).any(axis=1)
    return (same, "the same backbones") if in_both.all() else (nine, "nine backbones")


def _whiskers(
    data: ReportData, means: pd.DataFrame, datasets: Sequence[str], kinds: Sequence[ProbeKind]
) -> tuple[NDArray[np.float64], str]:
    """Return whiskers (2, datasets, kinds), below and above, and their explanation.

    They show the deviation over models, or for one model the interval over test images.
    """
    if int(means["n_models"].max()) > 1:
        std = to_matrix(means, "gain_std", datasets=datasets, kinds=kinds)
        return np.stack([std, std]), "Whiskers: standard deviation over backbones. "
    whiskers = np.full((2, len(datasets), len(kinds)), np.nan)
    labels = [combination.dataset_label for combination in data.combinations.values()]
    for combination in data.combinations.values():
        label = combination.dataset_label
        if label not in datasets or labels.count(label) > 1:
            continue
        row = datasets.index(label)
        for column, kind in enumerate(kinds):
            result = data.bootstrap(combination, kind)
            if result is not None:
                whiskers[0, row, column] = 100 * (result.gain - result.low)
                whiskers[1, row, column] = 100 * (result.high - result.gain)
    caption = ""
    if np.isfinite(whiskers).any():
        caption = "Whiskers: 95 % bootstrap interval over test images. "
    return np.maximum(whiskers, 0.0), caption


def _page_view(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for the page: probes in words, largest gain first within a dataset.

    Probes on single layers are left out, as they have their own section.
    """
    single_layer = table["layers"].str.fullmatch(r"\d+") | (
        (table["layers"] == "last") & (table["tokens"] == "ap") & (table["head"] == "linear")
    )
    view = _readable(table)[~single_layer].sort_values("gain", ascending=False)
    view = view.sort_values("dataset", kind="stable", ignore_index=True)
    view.insert(1, "probe", [str(kind) for kind in row_kinds(view)])
    hidden = [*DATASET_COLUMNS[1:], *MODEL_COLUMNS[1:], *KIND_COLUMNS]
    hidden += ["combination", "n_paper_backbones"]
    if "n_models" in view and (view["n_models"] == 1).all():
        hidden.append("n_models")
    return view.drop(columns=hidden, errors="ignore")


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with percentages instead of fractions and without empty columns."""
    fractions = [name for name in ("accuracy", "baseline", "seed_std") if name in table]
    percentages = {name: 100 * table[name] for name in fractions}
    return table.assign(**percentages).dropna(axis="columns", how="all")


def _without_class_token(data: ReportData) -> list[Block]:
    """Name the combinations that can have no baseline."""
    names = [c.name for c in data.combinations.values() if not c.has_class_token]
    if not names:
        return []
    text = (
        f"No CLS is cached for {join_words(names)}: without it there is no baseline and no gain "
        "(some backbones have no class token)."
    )
    return [Text(text=text)]


def _missing_kinds(data: ReportData) -> list[Block]:
    """List the commands for the paper's probes that have not been trained."""
    missing = [
        (combination, kind)
        for combination in data.detailed
        if combination.has_class_token
        for kind in PAPER_KINDS
        if not data.probes_of(combination, kind)
    ]
    blocks: list[Block] = []
    commands = [data.probe_command(c, kind) for c, kind in missing if kind != ALL_TOKENS]
    if commands:
        text = "These probes of the paper's table have not been trained yet."
        if len(commands) > MAX_COMMANDS:
            text += f" The first {MAX_COMMANDS} of {len(commands)} commands:"
        blocks.append(CommandHint(text=text, commands=commands[:MAX_COMMANDS]))
    if dense := [combination for combination, kind in missing if kind == ALL_TOKENS]:
        text = (
            "The probe on all tokens of the last layer is missing for "
            f"{pluralize(len(dense), 'combination')} of backbone and dataset. It needs a cache "
            "with all patch tokens, which is large; the extraction prints its size first."
        )
        extract = extract_command(dense[0].cache, layers="last", tokens="all")
        probe = data.probe_command(dense[0], ALL_TOKENS)
        blocks.append(CommandHint(text=text, commands=[extract, probe]))
    return blocks
