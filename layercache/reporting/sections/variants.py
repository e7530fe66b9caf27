"""Variants of the method: layers, tokens, number of attention heads, number of training images."""

from __future__ import annotations

import pandas as pd

from layercache.probing.heads.spec import REGRESSION
from layercache.reporting.analysis.gains import gains_over_baseline, ordered_kinds, select_kind
from layercache.reporting.analysis.published import BASELINE, FUSION, ProbeKind
from layercache.reporting.data.combination import Combination
from layercache.reporting.data.report_data import ReportData
from layercache.reporting.formatting import capitalize
from layercache.reporting.page import Block, CommandHint, FigureBlock, Heading, Section
from layercache.reporting.plotting.curves import lines
from layercache.reporting.sections.gains import gain_figure

TITLE = "Variants of the method"
LAYER_VARIANTS = tuple(
    ProbeKind(head="attentive", layers=layers, tokens="cls+ap")
    for layers in ("last", "mid-last", "quarter", "all")
)
TOKEN_VARIANTS = tuple(
    ProbeKind(head="attentive", layers="all", tokens=tokens) for tokens in ("cls", "ap", "cls+ap")
)
OTHER_HEADS = ("hybrid", "fusion", "efficient", "scalar-mix", "knn", "logreg", "ridge", "lda")
SHOTS = "1,2,5,10,20"
"""Training images per class in the suggested command."""
MAX_CURVES = 6
"""Number of curves in a few-shot figure at most."""


def variant_section(data: ReportData) -> Section:
    """Draw one figure per choice, or show the command that allows it."""
    blocks = [
        *_kinds(data, "subsets", kinds=LAYER_VARIANTS, heading="Which layers"),
        *_kinds(data, "tokens", kinds=TOKEN_VARIANTS, heading="CLS, AP or both"),
        *_other_heads(data),
        Heading(text="Number of attention heads"),
        _attention_heads(data),
    ]
    if not data.combinations or any(
        combination.target.task != REGRESSION for combination in data.combinations.values()
    ):
        blocks += [Heading(text="Few training images"), *_few_shot(data)]
    return Section(title=TITLE, blocks=blocks)


def _first(data: ReportData) -> Combination | None:
    """Return the combination for suggested commands."""
    return data.detailed[0] if data.detailed else None


def _kinds(
    data: ReportData, name: str, *, kinds: tuple[ProbeKind, ...], heading: str
) -> list[Block]:
    trained = ordered_kinds(gains_over_baseline(data.standard))
    present = [kind for kind in kinds if kind in trained]
    missing = [kind for kind in kinds if kind not in trained]
    blocks: list[Block] = [Heading(text=heading)]
    if len(present) > 1:
        title = f"{heading}: gain in {data.metric}"
        blocks.append(gain_figure(data, name, kinds=present, title=title))
    if missing:
        text = "Not trained yet:"
        if len(present) < 2:
            text = f"A figure needs at least two of these. {text}"
        # one command for all: the options can be repeated
        command = data.probe_command(
            _first(data),
            ProbeKind(
                head=missing[0].head,
                layers=" --layers ".join(dict.fromkeys(kind.layers for kind in missing)),
                tokens=" --tokens ".join(dict.fromkeys(kind.tokens for kind in missing)),
            ),
        )
        blocks.append(CommandHint(text=text, commands=[command]))
    return blocks


def _other_heads(data: ReportData) -> list[Block]:
    """Compare heads that are not in the paper: hybrid, nearest neighbours, logistic regression."""
    kinds = ordered_kinds(gains_over_baseline(data.standard))
    kinds = [kind for kind in kinds if kind.head in OTHER_HEADS]
    if not kinds:
        return []
    title = f"Other heads: gain in {data.metric}"
    figure = gain_figure(data, "other-heads", kinds=[*kinds[:5], FUSION], title=title)
    return [Heading(text="Other heads"), figure]


def _attention_heads(data: ReportData) -> Block:
    """Draw accuracy over the number of attention heads."""
    table = data.table[data.table["shots"].isna() & data.table["train_fraction"].isna()]
    table = select_kind(table, FUSION)
    table = table.assign(num_heads=[int(data.probes[p].row["num_heads"]) for p in table["probe"]])
    means = table.groupby(["combination", "num_heads"])["accuracy"].mean().unstack()
    means = means[means.notna().sum(axis=1) > 1].dropna(axis="columns", how="all")
    if means.empty:
        return CommandHint(
            text="The paper uses one head per token. To train other numbers of heads:",
            commands=[
                data.probe_command(_first(data), FUSION, options=f" --heads {n}") for n in (1, 4, 8)
            ],
        )
    figure = lines(
        [int(n) for n in means.columns],
        series={
            data.combinations[str(key)].name: 100 * means.loc[key].to_numpy(dtype=float)
            for key in means.index[:8]
        },
        xlabel="attention heads",
        title="Number of attention heads",
        ylabel=f"{data.metric}, %",
        log_x=True,
    )
    caption = (
        f"{capitalize(data.metric)} of the attentive fusion of all layers by the number of "
        "attention heads."
    )
    return FigureBlock(name="heads", figure=figure, caption=caption)


def _few_shot(data: ReportData) -> list[Block]:
    """Draw accuracy over the number of training images per class, for each combination."""
    table = data.table
    table = table[
        table["shots"].notna() & table["num_heads"].isna() & table["train_fraction"].isna()
    ]
    figures: list[Block] = []
    for combination in data.detailed:
        rows = table[table["combination"] == combination.key]
        if rows["shots"].nunique() > 1:
            figures.append(_few_shot_figure(combination, rows, metric=data.metric))
    if figures:
        return figures
    hint = CommandHint(
        text="There are no few-shot probes with at least two sizes yet. To train them:",
        commands=[
            data.probe_command(_first(data), kind, options=f" --shots {SHOTS}")
            for kind in (BASELINE, FUSION)
        ],
    )
    return [hint]


def _few_shot_figure(combination: Combination, rows: pd.DataFrame, *, metric: str) -> FigureBlock:
    shots = sorted(rows["shots"].unique())
    series, deviation = {}, {}
    for kind in ordered_kinds(rows)[:MAX_CURVES]:
        grouped = select_kind(rows, kind).groupby("shots")["accuracy"]
        series[str(kind)] = 100 * grouped.mean().reindex(shots).to_numpy(dtype=float)
        deviation[str(kind)] = 100 * grouped.std().reindex(shots).to_numpy(dtype=float)
    figure = lines(
        shots,
        series=series,
        deviation=deviation,
        xlabel="training images per class",
        title=f"Few training images: {combination.name}",
        ylabel=f"{metric}, %",
        log_x=True,
    )
    caption = (
        f"{capitalize(metric)} on the whole test split after training on a few images per class. "
        "Bands: standard deviation over seeds."
    )
    return FigureBlock(name=f"shots-{combination.slug}", figure=figure, caption=caption)
