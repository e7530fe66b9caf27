"""Changes for single images: confusions, and images that fusion wins or loses."""

from __future__ import annotations

import pandas as pd

from layercache._units import pluralize
from layercache.probing.heads.spec import MULTI_LABEL, REGRESSION
from layercache.reporting.analysis.error_analysis import changed_confusions, changed_images
from layercache.reporting.analysis.published import FUSION
from layercache.reporting.data.combination import Combination
from layercache.reporting.data.report_data import ReportData
from layercache.reporting.page import (
    Block,
    CommandHint,
    FigureBlock,
    Gallery,
    Heading,
    Picture,
    Section,
    Table,
    Text,
)
from layercache.reporting.plotting.curves import dumbbells
from layercache.reporting.sections.gains import missing_pair

TITLE = "Images that layer fusion gets right or wrong"
MAX_PICTURES = 12
"""Number of images in a gallery at most."""


def image_section(data: ReportData) -> Section | None:
    """Show confusions, and images won and lost, for each combination of backbone and dataset.

    None on a page of regressions.
    """
    blocks: list[Block] = []
    classified = [c for c in data.detailed if c.target.task != REGRESSION]
    if data.detailed and not classified:
        return None
    for combination in classified:
        blocks += [Heading(text=combination.name), *_one_combination(data, combination)]
    return Section(
        title=TITLE, blocks=blocks or [CommandHint(text="There is no cache to report on.")]
    )


def _one_combination(data: ReportData, combination: Combination) -> list[Block]:
    if combination.target.task == MULTI_LABEL:
        return [CommandHint(text="The images have several labels, so confusions are not defined.")]
    predictions = data.paired_predictions(combination, FUSION)
    if predictions is None:
        return [missing_pair(data, combination)]
    fusion, baseline = predictions
    targets = fusion.targets
    classes = data.class_names(combination, fusion)
    ids = data.test_ids(combination, fusion)
    changed = changed_images(
        fusion.logits,
        baseline.logits,
        targets=targets,
        ids=ids or [f"row {row}" for row in range(len(targets))],
        classes=classes,
    )
    won, lost = changed[changed["outcome"] == "won"], changed[changed["outcome"] == "lost"]
    text = (
        f"Of {pluralize(len(targets), 'test image')}, the attentive head on all layers gets "
        f"{len(won)} right that the baseline gets wrong, and {len(lost)} wrong that the baseline "
        "gets right."
    )
    blocks: list[Block] = [Text(text=text)]
    confusions = changed_confusions(
        fusion.logits, baseline.logits, targets=targets, classes=classes
    )
    if len(confusions):
        blocks += _confusions(combination, confusions)
    for images, caption in (
        (won, "Right with layer fusion, wrong without"),
        (lost, "Wrong with layer fusion, right without"),
    ):
        if len(images):
            blocks.append(_gallery(data, combination, images, caption, with_ids=ids is not None))
    table = Table(
        name=f"images-{combination.slug}",
        frame=changed,
        caption="All images that only one of the two heads gets right.",
        max_rows=0,
    )
    return [*blocks, table]


def _confusions(combination: Combination, confusions: pd.DataFrame) -> list[Block]:
    name = f"confusions-{combination.slug}"
    figure = dumbbells(
        [f"{r.true_class} taken for {r.predicted_class}" for r in confusions.itertuples()],
        before=confusions["baseline"].to_numpy(dtype=float),
        after=confusions["fusion"].to_numpy(dtype=float),
        names=("last CLS", "fusion"),
        xlabel="test images",
        title=f"Largest changes in confusions: {combination.name}",
    )
    caption = "Number of test images of one class that each head takes for another."
    return [
        FigureBlock(name=name, figure=figure, caption=caption),
        Table(name=name, frame=confusions, caption="The numbers of the figure.", max_rows=0),
    ]


def _gallery(
    data: ReportData,
    combination: Combination,
    images: pd.DataFrame,
    caption: str,
    *,
    with_ids: bool,
) -> Gallery:
    """Show the images with the largest change in probability, with thumbnails where available."""
    pictures = []
    for row in images.head(MAX_PICTURES).itertuples():
        image = None
        if data.load_thumbnail is not None and with_ids:
            image = data.load_thumbnail(combination.source, str(row.id))
        label = (
            f"{row.id}: {row.true_class}; baseline predicts {row.baseline_prediction}, "
            f"fusion {row.fusion_prediction}"
        )
        pictures.append(Picture(image=image, label=label))
    if len(images) > len(pictures):
        caption += f" ({len(pictures)} of {len(images)}, largest change in probability first)"
    return Gallery(caption=f"{caption}:", pictures=pictures)
