"""The first screen: the result in a few sentences and a few numbers."""

from __future__ import annotations

import pandas as pd

from layercache.reporting.data import ReportData
from layercache.reporting.gains import CELL, gains, mean_gains, over_models, pick
from layercache.reporting.page import Tile
from layercache.reporting.published import FUSION, Cell
from layercache.reporting.sections.certainty import FEW_MODELS, RATE
from layercache.reporting.words import count, listed, percent, points


def headline(material: ReportData) -> tuple[list[str], list[Tile]]:
    """The result in sentences and in numbers."""
    per_model = gains(material.main)
    fusion = pick(mean_gains(per_model), FUSION)
    models, datasets = material.table["model"].nunique(), material.table["dataset"].nunique()
    words = f"{count(models, 'backbone')} × {count(datasets, 'data set')}, {count(len(material.table), 'probe')}"
    tiles = [Tile(number=f"{models} × {datasets}", label=words)]
    if fusion.empty:
        return [
            "There is no fusion probe beside a last-layer CLS probe yet, so there is no gain to tell."
        ], tiles
    mean, base, best = (float(fusion[name].mean()) for name in ("gain", "baseline", "accuracy"))
    tiles += [
        Tile(number=percent(base), label="linear probe, last layer's CLS"),
        Tile(number=percent(best), label="attentive fusion of all layers"),
        Tile(
            number=points(mean),
            label="points of balanced accuracy gained",
            tone="good" if mean > 0 else "bad" if mean < 0 else "",
        ),
    ]
    sentences = [
        _gain(fusion, mean, base, best),
        _certainty(material, per_model),
        _best_other(per_model),
    ]
    return [s for s in sentences if s], tiles


def _gain(fusion: pd.DataFrame, mean: float, base: float, best: float) -> str:
    up, datasets = int((fusion["gain"] > 0).sum()), [str(d) for d in fusion["dataset"]]
    verb = "does better than" if up else "does not do better than"
    where = (
        f"{up} of {count(len(datasets), 'data set')}"
        if up and len(datasets) > 1
        else listed(datasets)
    )
    average = " on average" if len(datasets) > 1 else ""
    return (
        f"Letting a small attention head choose among the CLS and AP tokens of all layers {verb} a linear probe on the last layer's CLS on {where}: "
        f"balanced accuracy goes from {percent(base)} to {percent(best)}, {points(mean)} points{average}."
    )


def _certainty(material: ReportData, per_model: pd.DataFrame) -> str:
    """How sure the fusion gain is."""
    tests = pick(over_models(per_model), FUSION)
    strong = tests[tests["models"] >= FEW_MODELS]
    if len(strong):
        n = int((strong["p_adjusted"] <= RATE).sum())
        return f"Over backbones the gain is significant on {n} of {count(len(strong), 'data set')} (signed-rank test, false discoveries held at 5 %)."
    found = [
        gain
        for source in material.detailed
        if (gain := material.bootstrap(source, FUSION)) is not None
    ]
    if len(found) == 1:
        gain = found[0]
        luck = (
            "more than luck in the choice of test images"
            if gain.low > 0
            else "perhaps only luck in the choice of test images"
        )
        between = f"{points(100 * gain.low)} and {points(100 * gain.high)} points"
        return f"Resampling the {gain.images} test images puts it between {between} (95\N{NO-BREAK SPACE}%): {luck}."
    if found:
        n = sum(gain.low > 0 for gain in found)
        return f"On {n} of {len(found)} pairs of backbone and data set the gain is more than luck in the choice of test images (paired bootstrap, 95 %)."
    return ""


def _best_other(per_model: pd.DataFrame) -> str:
    """Another probe that gains more than fusion wherever fusion was tried, if there is one."""
    by_cell = per_model.groupby(CELL)["gain"].agg(["mean", "size"]).reset_index()
    fusion = pick(by_cell, FUSION)
    rivals = by_cell[
        (by_cell["size"] == int(fusion["size"].iloc[0]))
        & (by_cell["mean"] > float(fusion["mean"].iloc[0]))
    ]
    if rivals.empty:
        return ""
    best = rivals.sort_values("mean").iloc[-1]
    cell = Cell(head=str(best["head"]), layers=str(best["layers"]), tokens=str(best["tokens"]))
    return f"Another probe gains more: {cell} ({points(float(best['mean']))} points)."
