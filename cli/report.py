"""`layercache report`: write figures, statistics and one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercache_cli._terminal import echo
from layercache_cli.options.shared import ProbesRoot, Root

Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the page, its figures and its tables.")
]
Model = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="Only this backbone. Repeatable.", show_default="all"),
]
Dataset = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset",
        "-d",
        help="Only this dataset: its name, or its source, as in folder:PATH. Repeatable.",
        show_default="all",
    ),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        help="Only probes of this annotation column; label: the dataset's own. Repeatable.",
        show_default="all that share a metric",
    ),
]
PerHead = Annotated[bool, typer.Option("--per-head", help="Draw the attention of each head, too.")]
Details = Annotated[
    int,
    typer.Option(
        help="Number of combinations of backbone and dataset with figures of their own at most; "
        "those with most probes come first."
    ),
]
CkaImages = Annotated[
    int, typer.Option(help="Number of test images for the similarity of layers at most.")
]
Variant = Annotated[
    str | None,
    typer.Option(
        help="First digits of a way of training (grid, epochs, splits ...), as listed on the page.",
        show_default="the newest with the attentive head on all layers and the baseline",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        help="Further metrics to show, as in roc_auc,f1_macro,log_loss (docs/metrics.md).",
        show_default=False,
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the dataset's files, for thumbnails; default $LAYERCACHE_DATA.",
        show_default=False,
    ),
]
ShowThumbnails = Annotated[
    bool,
    typer.Option("--thumbnails/--no-thumbnails", help="Show test images where available."),
]


def report(
    *,
    out: Out = Path("layercache-report"),
    model: Model = None,
    dataset: Dataset = None,
    target: Target = None,
    per_head: PerHead = False,
    details: Details = 12,
    cka_images: CkaImages = 2000,
    variant: Variant = None,
    metrics: Metrics = None,
    data_root: DataRoot = None,
    thumbnails: ShowThumbnails = True,
    cache: Root = None,
    probes: ProbesRoot = None,
) -> None:
    """Write a page with figures, tables and statistics from results.

    Reads probes, saved heads and caches; never runs a backbone. If something
    is missing for a figure, the page shows the command that produces it.
    """
    from layercache.extraction.image_lookup import ImageLookup
    from layercache.reporting.api import report as run

    load_thumbnail = None
    if thumbnails:
        load_thumbnail = ImageLookup(sources=dataset or (), root=data_root)
    result = run(
        out,
        root=cache,
        probes_root=probes,
        model=model,
        dataset=dataset,
        target=target,
        per_head=per_head,
        details=details,
        cka_images=cka_images,
        variant=variant,
        metrics=metrics,
        load_thumbnail=load_thumbnail,
    )
    for sentence in result.headline:
        echo(sentence)
    echo()
    echo(f"page: {result.page}")
    echo(f"{len(result.figures)} figures and {len(result.tables)} tables next to it")
