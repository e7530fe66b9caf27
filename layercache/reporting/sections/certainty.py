"""The section on how sure one can be of the gains: over backbones, over test images, over seeds; in words and in tables."""

from __future__ import annotations

import pandas as pd

from layercache.cache.find import extract_command
from layercache.reporting.data import ReportData
from layercache.reporting.gains import cell_order, gains, over_models, pick
from layercache.reporting.page import Block, CommandHint, Heading, Section, Table, Text
from layercache.reporting.published import BASELINE, FUSION, Cell
from layercache.reporting.statistics import PairedGain
from layercache.reporting.words import count, listed, points, probability

TITLE = "How sure is it"
RATE = 0.05
"""False discoveries allowed among the gains called significant."""
FEW_MODELS = 5
"""Below so many models the signed-rank test cannot reach RATE: 2^-4 > 0.05."""


def certainty_section(material: ReportData) -> Section:
    """Three questions, each with its test or with the command that allows it."""
    per_model = gains(material.main)
    if per_model.empty:
        return Section(
            title=TITLE,
            blocks=[CommandHint(text="There is no gain to test yet; see the commands above.")],
        )
    return Section(
        title=TITLE,
        blocks=[
            *_over_models(material, per_model),
            *_over_images(material),
            *_over_seeds(material, per_model),
        ],
    )


def _over_models(material: ReportData, per_model: pd.DataFrame) -> list[Block]:
    heading = Heading(text="Over backbones: would another backbone gain too?")
    tests = over_models(per_model)
    if tests.empty:
        dataset = material.detailed[0].dataset
        text = "One backbone per data set leaves nothing to rank. The same two probes on other backbones allow the test; for each of them:"
        probes = [
            material.command(None, cell).replace("DATASET", dataset) for cell in (BASELINE, FUSION)
        ]
        return [
            heading,
            CommandHint(
                text=text,
                commands=[extract_command(material.detailed[0].cache, model="MODEL"), *probes],
            ),
        ]
    caption = (
        f"One-sided Wilcoxon signed-rank tests over backbones ({count(len(tests), 'test')}). p_adjusted: Benjamini-Hochberg over all of them; "
        "calling those at or below 0.05 significant keeps the expected share of false calls at 5 %."
    )
    frame = tests.assign(significant=_significant(tests))
    shown = frame.drop(columns=["head", "layers", "tokens", "smallest_p_possible"])
    shown.insert(
        1,
        "probe",
        [
            str(Cell(head=str(r.head), layers=str(r.layers), tokens=str(r.tokens)))
            for r in tests.itertuples(index=False)
        ],
    )
    shown = shown.assign(**{name: [_plain(p) for p in frame[name]] for name in ("p", "p_adjusted")})
    return [
        heading,
        Text(text=_verdict(tests)),
        Table(name="wilcoxon", frame=frame, view=shown, caption=caption),
    ]


def _plain(p: float) -> str:
    return probability(p).removeprefix("p = ").removeprefix("p ")


def _significant(tests: pd.DataFrame) -> list[bool]:
    return [bool(p <= RATE) for p in tests["p_adjusted"]]


def _verdict(tests: pd.DataFrame) -> str:
    most = int(tests["models"].max())
    if most < FEW_MODELS:
        return (
            f"With at most {most} backbones per data set the smallest p that this test can give is {float(tests['smallest_p_possible'].min()):g}: "
            "too few to call any gain significant at 5 %, however large. Five is the least; the paper has nine."
        )
    fusion = pick(tests, FUSION)
    if fusion.empty:
        return f"{sum(_significant(tests))} of {len(tests)} gains are significant."
    called = list(zip((str(d) for d in fusion["dataset"]), _significant(fusion), strict=True))
    yes, no = [d for d, s in called if s], [d for d, s in called if not s]
    if not yes:
        return (
            f"The gain of attentive fusion over backbones is significant on none of: {listed(no)}."
        )
    return f"Attentive fusion of all layers gains significantly over backbones on {listed(yes)}{f'; not on {listed(no)}' if no else ''}."


def _over_images(material: ReportData) -> list[Block]:
    heading = Heading(text="Over test images: would the same backbone gain on other images?")
    rows, sentences = [], []
    for source in material.sources.values():
        for cell in cell_order(material.main[material.main["source"] == source.key]):
            found = None if cell == BASELINE else material.bootstrap(source, cell)
            if found is None:
                continue
            row = {
                "backbone and data": source.name,
                "head": cell.head,
                "layers": cell.layers,
                "tokens": cell.tokens,
                "images": found.images,
            }
            rows.append(
                row
                | {
                    "gain": 100 * found.gain,
                    "low": 100 * found.low,
                    "high": 100 * found.high,
                    "p": found.p,
                }
            )
            if cell == FUSION:
                sentences.append(_sentence(source.name, cell, found))
    if not rows:
        text = "No probe was tested on the same images as the baseline (multi-label data are left out: this test resamples within classes)."
        return [heading, CommandHint(text=text)]
    caption = (
        "Paired bootstrap against the last layer's CLS: test images are drawn with replacement within each class, the same ones for both heads, "
        "2000 times. low and high bound 95 % of the gains drawn; p is the share of draws without a gain."
    )
    frame = pd.DataFrame(rows)
    shown = frame[~frame["layers"].str.fullmatch(r"\d+")]
    shown = shown.assign(p=[_plain(p) for p in shown["p"]])
    return [
        heading,
        *(Text(text=s) for s in sentences[:4]),
        Table(name="bootstrap", frame=frame, view=shown, max_rows=24, decimals=1, caption=caption),
    ]


def _sentence(name: str, cell: Cell, found: PairedGain) -> str:
    verdict = (
        "a gain beyond luck"
        if found.low > 0
        else "a loss beyond luck"
        if found.high < 0
        else "not distinguishable from no gain"
    )
    between = f"between {points(100 * found.low)} and {points(100 * found.high)}"
    return (
        f"{name}, {cell}: {points(100 * found.gain)} points; 95 % of resamples of the {found.images} test images lie {between} "
        f"({probability(found.p)}): {verdict}."
    )


def _over_seeds(material: ReportData, per_model: pd.DataFrame) -> list[Block]:
    heading = Heading(text="Over seeds: would another run gain too?")
    several = per_model[per_model["seeds"] > 1]
    if several.empty:
        text = "Every probe was trained with one seed, so nothing is known of the variation between runs. For five seeds:"
        commands = [
            material.command(material.detailed[0], cell, more=" --seeds 5")
            for cell in (BASELINE, FUSION)
        ]
        return [heading, CommandHint(text=text, commands=commands)]
    largest, typical = (
        100 * float(several["seed_std"].max()),
        100 * float(several["seed_std"].median()),
    )
    text = (
        "Between seeds, which change initial weights, batch order, noise and the validation draw, a probe's balanced accuracy has a standard "
        f"deviation of {typical:.2f} points in the middle and {largest:.2f} at most (column seed_std of gains.csv)."
    )
    return [heading, Text(text=text)]
