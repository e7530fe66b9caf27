"""What changes for single images: confusions, and the images that fusion wins or loses against the baseline."""

from __future__ import annotations

import pandas as pd

from layercache.reporting.data import ReportData, Source
from layercache.reporting.mistakes import changed_images, confused_pairs
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
from layercache.reporting.published import BASELINE, FUSION
from layercache.reporting.words import count

SHOWN = 12
"""Images of a gallery."""


def image_section(material: ReportData) -> Section:
    """For each pair of backbone and data: confusions, and images won and lost."""
    blocks: list[Block] = []
    for source in material.detailed:
        blocks += [Heading(text=source.name), *_one_source(material, source)]
    return Section(
        title="What fusion gets right, and wrong",
        blocks=blocks or [CommandHint(text="There is no cache to report on.")],
    )


def _one_source(material: ReportData, source: Source) -> list[Block]:
    if source.cache.spec.dataset.multi_label:
        return [
            CommandHint(
                text="An image has several labels here, so there is no one class that it is taken for."
            )
        ]
    pair = material.pair(source, FUSION)
    if pair is None:
        commands = [
            material.command(source, c) for c in (BASELINE, FUSION) if not material.of(source, c)
        ]
        return [
            CommandHint(
                text="This needs the fusion probe and the baseline with the same seed:",
                commands=commands,
            )
        ]
    fusion, baseline = pair
    classes = source.cache.spec.dataset.classes
    ids = material.test_ids(source, fusion)
    rows = [f"row {i}" for i in range(len(fusion.targets))]
    changed = changed_images(
        fusion.logits, baseline.logits, targets=fusion.targets, ids=ids or rows, classes=classes
    )
    won, lost = changed[changed["outcome"] == "won"], changed[changed["outcome"] == "lost"]
    text = (
        f"Of {count(len(fusion.targets), 'test image')} the fusion head gets {len(won)} right that the baseline gets wrong, "
        f"and {len(lost)} wrong that the baseline gets right."
    )
    blocks: list[Block] = [Text(text=text)]
    confused = confused_pairs(
        fusion.logits, baseline.logits, targets=fusion.targets, classes=classes
    )
    if len(confused):
        figure = dumbbells(
            [f"{r.true_class} taken for {r.taken_for}" for r in confused.itertuples(index=False)],
            before=confused["baseline"].to_numpy(dtype=float),
            after=confused["fusion"].to_numpy(dtype=float),
            names=("last CLS", "fusion"),
            xlabel="test images",
            title=f"Confusions that changed most: {source.name}",
        )
        blocks.append(
            FigureBlock(
                name=f"confusions-{source.stem}",
                figure=figure,
                caption="How many test images of one class each head takes for another.",
            )
        )
        blocks.append(
            Table(
                name=f"confusions-{source.stem}",
                frame=confused,
                caption="The same as numbers.",
                max_rows=0,
            )
        )
    blocks += _gallery(
        material, source, won, "Right with fusion, wrong without", known=ids is not None
    )
    blocks += _gallery(
        material, source, lost, "Wrong with fusion, right without", known=ids is not None
    )
    blocks.append(
        Table(
            name=f"images-{source.stem}",
            frame=changed,
            caption="All images that only one of the two heads gets right.",
            max_rows=0,
            decimals=3,
        )
    )
    return blocks


def _gallery(
    material: ReportData, source: Source, images: pd.DataFrame, caption: str, *, known: bool
) -> list[Block]:
    """The most decided ones, with thumbnails where they are at hand."""
    if images.empty:
        return []
    pictures = []
    for row in images.head(SHOWN).itertuples(index=False):
        image = (
            material.thumbnails(source.dataset, str(row.id))
            if material.thumbnails is not None and known
            else None
        )
        label = f"{row.id}: {row.true_class}; baseline says {row.baseline_says}, fusion {row.fusion_says}"
        pictures.append(Picture(image=image, label=label))
    shown = (
        f" ({len(pictures)} of {len(images)}, the most decided first)"
        if len(images) > len(pictures)
        else ""
    )
    return [Gallery(caption=f"{caption}{shown}:", pictures=pictures)]
