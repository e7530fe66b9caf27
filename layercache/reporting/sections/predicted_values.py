"""Predicted against true values of regressions, and the images with the largest errors."""

from __future__ import annotations

import pandas as pd

from layercache._units import pluralize
from layercache.probing.heads.spec import REGRESSION
from layercache.probing.metrics import evaluate
from layercache.probing.results.predictions import Predictions
from layercache.reporting.analysis.published import FUSION
from layercache.reporting.analysis.regression import largest_errors
from layercache.reporting.data.combination import Combination
from layercache.reporting.data.report_data import ReportData
from layercache.reporting.page import (
    Block,
    FigureBlock,
    Gallery,
    Heading,
    Picture,
    Section,
    Table,
    Text,
)
from layercache.reporting.plotting.predicted_values import predicted_against_true
from layercache.reporting.sections.gains import missing_pair

TITLE = "Predicted and true values"
MAX_PICTURES = 12
"""Number of images in a gallery at most."""
BASELINE_NAME, FUSION_NAME = "last CLS, linear", "attentive fusion"


def value_section(data: ReportData) -> Section | None:
    """Plot predicted against true values; None on a page without regressions."""
    blocks: list[Block] = []
    for combination in data.detailed:
        if combination.target.task == REGRESSION:
            blocks += [Heading(text=combination.name), *_one_combination(data, combination)]
    return Section(title=TITLE, blocks=blocks) if blocks else None


def _one_combination(data: ReportData, combination: Combination) -> list[Block]:
    predictions = data.paired_predictions(combination, FUSION)
    if predictions is None:
        return [missing_pair(data, combination)]
    fusion, baseline = predictions
    columns = data.class_names(combination, fusion)
    ids = data.test_ids(combination, fusion)
    blocks: list[Block] = [Text(text=_sentence(fusion, baseline))]
    blocks += [
        _figure(combination, fusion, baseline, column=name, number=c)
        for c, name in enumerate(columns)
    ]
    names = ids or [f"row {row}" for row in range(len(fusion.targets))]
    errors = largest_errors(fusion, baseline, ids=names, columns=columns)
    if ids is not None:
        blocks.append(_gallery(data, combination, errors))
    table = Table(
        name=f"values-{combination.slug}",
        frame=errors,
        caption="True and predicted values of all test images, by the error of layer fusion.",
        max_rows=0,
    )
    return [*blocks, table]


def _sentence(fusion: Predictions, baseline: Predictions) -> str:
    before, after = (evaluate(p.logits, p.targets, task=REGRESSION) for p in (baseline, fusion))
    return (
        f"On {pluralize(len(fusion.targets), 'test image')}, the mean absolute error goes from "
        f"{before['mae']:.4g} with the last layer's CLS to {after['mae']:.4g} with layer fusion, "
        f"and the root mean squared error from {before['rmse']:.4g} to {after['rmse']:.4g}."
    )


def _figure(
    combination: Combination,
    fusion: Predictions,
    baseline: Predictions,
    *,
    column: str,
    number: int,
) -> FigureBlock:
    figure = predicted_against_true(
        {BASELINE_NAME: baseline.logits[:, number], FUSION_NAME: fusion.logits[:, number]},
        true=fusion.targets[:, number],
        column=column,
        title=f"Predicted and true values: {combination.name}",
    )
    suffix = f"-{number + 1}" if fusion.targets.shape[1] > 1 else ""
    caption = "A point per test image. On the line, the prediction is the true value."
    return FigureBlock(name=f"values-{combination.slug}{suffix}", figure=figure, caption=caption)


def _gallery(data: ReportData, combination: Combination, errors: pd.DataFrame) -> Gallery:
    """Show the images with the largest errors, with thumbnails where available."""
    pictures = []
    for row in errors.head(MAX_PICTURES).itertuples():
        image = None
        if data.load_thumbnail is not None:
            image = data.load_thumbnail(combination.source, str(row.id))
        label = (
            f"{row.id}: {row.column} {row.true_value:.4g}; baseline predicts "
            f"{row.baseline_prediction:.4g}, fusion {row.fusion_prediction:.4g}"
        )
        pictures.append(Picture(image=image, label=label))
    return Gallery(caption="Largest errors of layer fusion:", pictures=pictures)
