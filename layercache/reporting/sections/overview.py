"""Top of the page: the result in a few sentences and a few figures."""

from __future__ import annotations

import pandas as pd

from layercache._units import join_words, pluralize
from layercache.reporting.data import ReportData
from layercache.reporting.formatting import format_percent, format_points
from layercache.reporting.gains import (
    KIND_COLUMNS,
    gains_over_baseline,
    mean_gains,
    row_kinds,
    select_kind,
    wilcoxon_over_models,
)
from layercache.reporting.page import Tile
from layercache.reporting.published import FUSION
from layercache.reporting.sections.significance import MIN_MODELS, SIGNIFICANCE


def overview(data: ReportData) -> tuple[list[str], list[Tile]]:
    """Return the result in sentences and in tiles."""
    gains = gains_over_baseline(data.standard)
    fusion = select_kind(mean_gains(gains), FUSION)
    n_models, n_datasets = data.table["model"].nunique(), data.table["dataset"].nunique()
    label = (
        f"{pluralize(n_models, 'backbone')} × {pluralize(n_datasets, 'dataset')}, "
        f"{pluralize(len(data.table), 'probe')}"
    )
    tiles = [Tile(number=f"{n_models} × {n_datasets}", label=label)]
    if fusion.empty:
        return ["There is no gain to report yet: it needs a fusion probe and a baseline."], tiles
    gain, baseline, accuracy = (
        float(fusion[name].mean()) for name in ("gain", "baseline", "accuracy")
    )
    tone = ""
    if gain:
        tone = "good" if gain > 0 else "bad"
    tiles += [
        Tile(number=format_percent(baseline), label="linear probe, last layer's CLS"),
        Tile(number=format_percent(accuracy), label="attentive fusion of all layers"),
        Tile(
            number=format_points(gain),
            label="points of balanced accuracy gained",
            tone=tone,
        ),
    ]
    sentences = [
        _gain_sentence(fusion, gain=gain, baseline=baseline, accuracy=accuracy),
        _significance_sentence(data, gains),
        _best_other_sentence(gains),
    ]
    return [sentence for sentence in sentences if sentence], tiles


def _gain_sentence(fusion: pd.DataFrame, *, gain: float, baseline: float, accuracy: float) -> str:
    n_better, datasets = int((fusion["gain"] > 0).sum()), [str(d) for d in fusion["dataset"]]
    verb = "outperforms" if n_better else "does not outperform"
    where = join_words(datasets)
    if n_better and len(datasets) > 1:
        where = f"{n_better} of {pluralize(len(datasets), 'dataset')}"
    average = " on average" if len(datasets) > 1 else ""
    return (
        f"A small attention head over the CLS and AP tokens of all layers {verb} a linear probe on "
        f"the last layer's CLS on {where}: balanced accuracy goes from {format_percent(baseline)} "
        f"to {format_percent(accuracy)}, {format_points(gain)} points{average}."
    )


def _significance_sentence(data: ReportData, gains: pd.DataFrame) -> str:
    """Return how certain the fusion gain is, over models if there are enough, else over images."""
    tests = select_kind(wilcoxon_over_models(gains), FUSION)
    tests = tests[tests["n_models"] >= MIN_MODELS]
    if len(tests):
        n_significant = int((tests["p_adjusted"] <= SIGNIFICANCE).sum())
        return (
            f"Over backbones, the gain is significant on {n_significant} of "
            f"{pluralize(len(tests), 'dataset')} (signed-rank test, false discovery rate 5 %)."
        )
    results = [data.bootstrap(combination, FUSION) for combination in data.detailed]
    intervals = [result for result in results if result is not None]
    if len(intervals) == 1:
        interval = intervals[0]
        verdict = "significant" if interval.low > 0 else "not significant"
        return (
            f"Its 95\N{NO-BREAK SPACE}% bootstrap interval over the {interval.n_images} test "
            f"images is {format_points(100 * interval.low)} to "
            f"{format_points(100 * interval.high)} points, so the gain is {verdict}."
        )
    if intervals:
        n_significant = sum(interval.low > 0 for interval in intervals)
        return (
            f"On {n_significant} of {len(intervals)} combinations of backbone and dataset, the "
            "gain is significant over test images (paired bootstrap, 95 %)."
        )
    return ""


def _best_other_sentence(gains: pd.DataFrame) -> str:
    """Return the probe that gains more than fusion on the same combinations, if there is one."""
    means = gains.groupby(KIND_COLUMNS)["gain"].agg(["mean", "size"]).reset_index()
    fusion = select_kind(means, FUSION)
    better = means[
        (means["size"] == int(fusion["size"].iloc[0]))
        & (means["mean"] > float(fusion["mean"].iloc[0]))
    ].sort_values("mean")
    if better.empty:
        return ""
    gain = format_points(float(better["mean"].iloc[-1]))
    return f"Another probe gains more: {row_kinds(better)[-1]} ({gain} points)."
