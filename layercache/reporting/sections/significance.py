"""Significance of the gains: over backbones, over test images, over seeds."""

from __future__ import annotations

import pandas as pd

from layercache._units import join_words, pluralize
from layercache.cache.cache import extract_command
from layercache.probing.heads.spec import REGRESSION
from layercache.reporting.analysis.gains import (
    DATASET_COLUMNS,
    KIND_COLUMNS,
    gains_over_baseline,
    ordered_kinds,
    row_kinds,
    select_kind,
    wilcoxon_over_models,
)
from layercache.reporting.analysis.paired_bootstrap import RESAMPLES, PairedBootstrap
from layercache.reporting.analysis.published import BASELINE, FUSION, ProbeKind
from layercache.reporting.data.report_data import ReportData
from layercache.reporting.formatting import format_p_value, format_points
from layercache.reporting.page import Block, CommandHint, Heading, Section, Table, Text

TITLE = "Significance of the gains"
SIGNIFICANCE = 0.05
"""False discovery rate of the gains called significant."""
MIN_MODELS = 5
"""Number of models below which the signed-rank test cannot reach SIGNIFICANCE: 2^-4 > 0.05."""
MAX_SENTENCES = 4
"""Number of bootstrap results stated in words at most."""


def significance_section(data: ReportData) -> Section:
    """Test the gains over backbones, test images and seeds, or show the commands that allow it."""
    gains = gains_over_baseline(data.standard)
    if gains.empty:
        hint = CommandHint(text="There is no gain to test yet; see the commands above.")
        return Section(title=TITLE, blocks=[hint])
    blocks = [
        Heading(text="Over backbones: would another backbone gain, too?"),
        *_over_models(data, gains),
        Heading(text="Over test images: would the same backbone gain on other images?"),
        *_over_images(data),
        Heading(text="Over seeds: would another run gain, too?"),
        _over_seeds(data, gains),
    ]
    return Section(title=TITLE, blocks=blocks)


def _over_models(data: ReportData, gains: pd.DataFrame) -> list[Block]:
    tests = wilcoxon_over_models(gains)
    if tests.empty:
        combination = data.detailed[0]
        probes = [
            data.probe_command(combination, kind, model="MODEL") for kind in (BASELINE, FUSION)
        ]
        hint = CommandHint(
            text=(
                "The test needs several backbones per dataset. Run these commands for each "
                "backbone:"
            ),
            commands=[extract_command(combination.cache, model="MODEL"), *probes],
        )
        return [hint]
    table = tests.assign(significant=_is_significant(tests))
    view = table.drop(columns=[*DATASET_COLUMNS[1:], *KIND_COLUMNS, "smallest_p_possible"])
    view.insert(1, "probe", [str(kind) for kind in row_kinds(table)])
    for column in ("p", "p_adjusted"):
        view[column] = [format_p_value(p) for p in table[column]]
    caption = (
        f"One-sided Wilcoxon signed-rank tests over backbones ({pluralize(len(tests), 'test')}). "
        "p_adjusted: Benjamini-Hochberg over all of them; if all tests at or below 0.05 are called "
        "significant, the expected share of false discoveries is 5 %."
    )
    return [
        Text(text=_verdict(tests)),
        Table(name="wilcoxon", frame=table, view=view, caption=caption),
    ]


def _is_significant(tests: pd.DataFrame) -> list[bool]:
    return [bool(p <= SIGNIFICANCE) for p in tests["p_adjusted"]]


def _verdict(tests: pd.DataFrame) -> str:
    max_models = int(tests["n_models"].max())
    if max_models < MIN_MODELS:
        smallest_p = float(tests["smallest_p_possible"].min())
        return (
            f"With at most {max_models} backbones per dataset, the smallest possible p value of "
            f"this test is {smallest_p:g}: no gain can be significant at 5 %, however large. At "
            f"least {MIN_MODELS} backbones are needed; the paper has nine."
        )
    fusion = select_kind(tests, FUSION)
    if fusion.empty:
        return f"{sum(_is_significant(tests))} of {len(tests)} gains are significant."
    datasets = [str(dataset) for dataset in fusion["dataset"]]
    flags = list(zip(datasets, _is_significant(fusion), strict=True))
    significant = [dataset for dataset, flag in flags if flag]
    others = [dataset for dataset, flag in flags if not flag]
    if not significant:
        return (
            "Over backbones, the gain of attentive fusion is not significant on "
            f"{join_words(others)}."
        )
    return (
        "Over backbones, attentive fusion of all layers gains significantly on "
        f"{join_words(significant)}{f'; not on {join_words(others)}' if others else ''}."
    )


def _over_images(data: ReportData) -> list[Block]:
    rows, sentences = [], []
    for combination in data.combinations.values():
        probes = data.standard[data.standard["combination"] == combination.key]
        for kind in ordered_kinds(probes):
            result = None if kind == BASELINE else data.bootstrap(combination, kind)
            if result is None:
                continue
            rows.append(
                {
                    "backbone and dataset": combination.name,
                    "head": kind.head,
                    "layers": kind.layers,
                    "tokens": kind.tokens,
                    "n_images": result.n_images,
                    "gain": 100 * result.gain,
                    "low": 100 * result.low,
                    "high": 100 * result.high,
                    "p": result.p,
                }
            )
            if kind == FUSION:
                sentences.append(_bootstrap_sentence(combination.name, kind, result))
    if not rows:
        hint = CommandHint(
            text="No probe was tested on the same images as the baseline. Multi-label datasets are "
            "left out, because images are resampled within classes."
        )
        return [hint]
    tasks = {combination.target.task for combination in data.combinations.values()}
    within = "" if tasks == {REGRESSION} else " within each class"
    caption = (
        "Paired bootstrap against the last layer's CLS: test images are drawn with replacement"
        f"{within}, the same ones for both heads, {RESAMPLES} times. low and high bound "
        "the 95 % interval of the gain; p is the share of resamples without a gain."
    )
    frame = pd.DataFrame(rows)
    view = frame[~frame["layers"].str.fullmatch(r"\d+")]
    view = view.assign(p=[format_p_value(p) for p in view["p"]])
    table = Table(
        name="bootstrap", frame=frame, view=view, max_rows=24, decimals=1, caption=caption
    )
    return [*(Text(text=sentence) for sentence in sentences[:MAX_SENTENCES]), table]


def _bootstrap_sentence(name: str, kind: ProbeKind, result: PairedBootstrap) -> str:
    verdict = {
        1: "a significant gain",
        -1: "a significant loss",
        0: "no difference that these images can show",
    }[result.sign]
    p = format_p_value(result.p)
    return (
        f"{name}, {kind}: {format_points(100 * result.gain)} points, 95 % interval over the "
        f"{result.n_images} test images {format_points(100 * result.low)} to "
        f"{format_points(100 * result.high)} (p {p if p.startswith('<') else f'= {p}'}): {verdict}."
    )


def _over_seeds(data: ReportData, gains: pd.DataFrame) -> Block:
    several = gains[gains["n_seeds"] > 1]
    if several.empty:
        return CommandHint(
            text="All probes were trained with one seed, so the variation between runs is unknown. "
            "To train five seeds:",
            commands=[
                data.probe_command(data.detailed[0], kind, options=" --seeds 5")
                for kind in (BASELINE, FUSION)
            ],
        )
    deviations = 100 * several["seed_std"]
    text = (
        "Seeds change the initial weights, the batch order, the noise and the validation split. "
        f"Between seeds, the standard deviation of a probe's {data.metric} is "
        f"{float(deviations.median()):.2f} points (median) and at most "
        f"{float(deviations.max()):.2f} points (column seed_std of gains.csv)."
    )
    return Text(text=text)
