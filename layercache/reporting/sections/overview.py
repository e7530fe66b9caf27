"""Top of the page: the result in a few sentences and a few figures."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from layercache._units import join_words, pluralize
from layercache.probing.metrics import find_metric
from layercache.reporting.analysis.gains import (
    KIND_COLUMNS,
    gains_over_baseline,
    mean_gains,
    row_kinds,
    select_kind,
    wilcoxon_over_models,
)
from layercache.reporting.analysis.paired_bootstrap import PairedBootstrap
from layercache.reporting.analysis.published import FUSION
from layercache.reporting.data.report_data import ReportData
from layercache.reporting.formatting import format_percent, format_points
from layercache.reporting.page import Tile
from layercache.reporting.sections.significance import MIN_MODELS, SIGNIFICANCE

HEAD = "A small attention head over the CLS and AP tokens of all layers"
PROBE = "a linear probe on the last layer's CLS"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Significance of the fusion gain: which words and colours the page may use for it."""

    n_tests: int = 0
    """Number of tests: one per dataset over backbones, or per combination over test images."""
    n_gains: int = 0
    """Number of significant gains."""
    n_losses: int = 0
    """Number of significant losses; the test over backbones looks for gains only."""
    unit: str = "combination"
    """Unit of the test: "dataset" or "combination"."""
    interval: PairedBootstrap | None = None
    """Interval over test images if there is only one combination."""

    @property
    def sign(self) -> int:
        """1 if most tests show a gain, -1 if most show a loss, else 0."""
        return int(2 * self.n_gains > self.n_tests) - int(2 * self.n_losses > self.n_tests)

    @property
    def shown_by(self) -> str:
        """Basis of the tests: "252 test images"."""
        if self.unit == "dataset":
            return "these backbones"
        return f"{self.interval.n_images} test images" if self.interval else "the test images"


def overview(data: ReportData) -> tuple[list[str], list[Tile]]:
    """Return the result in sentences and in tiles."""
    gains = gains_over_baseline(data.standard)
    fusion = select_kind(mean_gains(gains), FUSION)
    n_models, n_datasets = (
        data.table[column].nunique() for column in ("weights_digest", "dataset_digest")
    )
    label = (
        f"{pluralize(n_models, 'backbone')} × {pluralize(n_datasets, 'dataset')}, "
        f"{pluralize(len(data.table), 'probe')}"
    )
    tiles = [Tile(number=f"{n_models} × {n_datasets}", label=label)]
    if fusion.empty:
        missing = "the attentive head on all layers and the baseline"
        return [f"There is no gain to report yet: it needs {missing}."], tiles
    evidence = find_evidence(data, gains)
    gain, baseline, accuracy = (
        float(fusion[name].mean()) for name in ("gain", "baseline", "accuracy")
    )
    metrics = list(dict.fromkeys(select_kind(data.standard, FUSION)["metric"]))
    metric = " or ".join(find_metric(name).title for name in metrics)
    tiles += [
        Tile(number=format_percent(baseline), label="linear probe, last layer's CLS"),
        Tile(number=format_percent(accuracy), label="attentive fusion of all layers"),
        _gain_tile(gain, metric, evidence),
    ]
    sentences = [
        _gain_sentence(
            [str(dataset) for dataset in fusion["dataset"]],
            evidence,
            f"{metric} goes from {format_percent(baseline)} to {format_percent(accuracy)}, "
            f"{format_points(gain)} points",
        ),
        _significance_sentence(evidence),
        _best_other_sentence(data, gains),
    ]
    return [sentence for sentence in sentences if sentence], tiles


def find_evidence(data: ReportData, gains: pd.DataFrame) -> Evidence:
    """Test the fusion gain over backbones if there are enough, else over test images."""
    tests = select_kind(wilcoxon_over_models(gains), FUSION)
    tests = tests[tests["n_models"] >= MIN_MODELS]
    if len(tests):
        n_gains = int((tests["p_adjusted"] <= SIGNIFICANCE).sum())
        return Evidence(n_tests=len(tests), n_gains=n_gains, unit="dataset")
    results = [data.bootstrap(combination, FUSION) for combination in data.combinations.values()]
    intervals = [result for result in results if result is not None]
    return Evidence(
        n_tests=len(intervals),
        n_gains=sum(interval.sign > 0 for interval in intervals),
        n_losses=sum(interval.sign < 0 for interval in intervals),
        interval=intervals[0] if len(intervals) == 1 else None,
    )


def _gain_tile(gain: float, metric: str, evidence: Evidence) -> Tile:
    label = f"points of {metric}"
    if evidence.sign:
        label += " gained" if evidence.sign > 0 else " lost"
    elif not evidence.n_tests:
        label += ", not tested"
    elif not evidence.n_gains and not evidence.n_losses:
        label += f": no difference that {evidence.shown_by} can show"
    tone = {1: "good", -1: "bad", 0: ""}[evidence.sign]
    return Tile(number=format_points(gain), label=label, tone=tone)


def _gain_sentence(datasets: list[str], evidence: Evidence, numbers: str) -> str:
    """Return a sentence with the result of the tests and the numbers behind it."""
    several = len(datasets) > 1 or evidence.n_tests > 1
    where = f"on {join_words(datasets) if len(datasets) <= 3 else f'{len(datasets)} datasets'}"
    counts = {"outperforms": evidence.n_gains, "does worse than": evidence.n_losses}
    shown = [(verb, count) for verb, count in counts.items() if count]
    if not evidence.n_tests:
        text = f"{HEAD} was compared with {PROBE} {where}"
    elif not shown:
        text = (
            f"{HEAD} makes no difference {where} that {evidence.shown_by} can show, compared with "
            f"{PROBE}"
        )
    else:
        (verb, count), *others = shown
        if several:
            where = f"on {count} of {pluralize(evidence.n_tests, evidence.unit)}"
        text = f"{HEAD} {verb} {PROBE} {where}"
        text += "".join(f", and {verb} it on {count}" for verb, count in others)
    return f"{text}: {numbers}{' on average' if several else ''}."


def _significance_sentence(evidence: Evidence) -> str:
    """Return how certain the fusion gain is."""
    if evidence.unit == "dataset":
        return (
            f"Over backbones, the gain is significant on {evidence.n_gains} of "
            f"{pluralize(evidence.n_tests, 'dataset')} (signed-rank test, false discovery rate "
            "5 %)."
        )
    if interval := evidence.interval:
        verdict = {
            1: "so the gain is significant",
            -1: "so the loss is significant",
            0: "which includes 0",
        }[interval.sign]
        return (
            f"Its 95\N{NO-BREAK SPACE}% bootstrap interval over the {interval.n_images} test "
            f"images is {format_points(100 * interval.low)} to "
            f"{format_points(100 * interval.high)} points, {verdict}."
        )
    if evidence.n_tests:
        losses = f" and the loss on {evidence.n_losses}" if evidence.n_losses else ""
        return (
            f"On {evidence.n_gains} of {evidence.n_tests} combinations of backbone and dataset, "
            f"the gain is significant over test images (paired bootstrap, 95 %){losses}."
        )
    return "The gain has no interval, so it may be chance."


def _best_other_sentence(data: ReportData, gains: pd.DataFrame) -> str:
    """Return the probe that gains most, if it gains more than attention over all layers does."""
    means = gains.groupby(KIND_COLUMNS)["gain"].agg(["mean", "size"]).reset_index()
    fusion = select_kind(means, FUSION)
    better = means[
        (means["size"] == int(fusion["size"].iloc[0]))
        & (means["mean"] > float(fusion["mean"].iloc[0]))
    ].sort_values("mean")
    if better.empty:
        return ""
    kind, gain = row_kinds(better)[-1], format_points(float(better["mean"].iloc[-1]))
    results = [data.bootstrap(c, kind, over=FUSION) for c in data.combinations.values()]
    intervals = [result for result in results if result is not None]
    if not intervals:
        return f"Another probe has a larger gain: {kind} ({gain} points)."
    n_shown = sum(interval.sign > 0 for interval in intervals)
    if len(intervals) > 1:
        shown = f"on {n_shown} of {len(intervals)} combinations significantly larger"
    elif n_shown:
        shown = "significantly larger"
    else:
        shown = f"a difference that {intervals[0].n_images} test images cannot show"
    return f"Another probe has a larger gain: {kind} ({gain} points, {shown})."
