"""`layercache report`: results as pictures and one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the page, its figures and its tables.")
]
Model = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="Only this backbone. Repeatable.", show_default="all"),
]
Data = Annotated[
    list[str] | None,
    typer.Option("--dataset", "-d", help="Only this data set. Repeatable.", show_default="all"),
]
PerHead = Annotated[bool, typer.Option("--per-head", help="Also draw attention head by head.")]
Details = Annotated[
    int,
    typer.Option(
        help="Pairs of backbone and data set with figures of their own, at most; those with most probes."
    ),
]
CkaImages = Annotated[
    int, typer.Option(help="Test images that the similarity of layers is computed on, at most.")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the data set's files, for thumbnails; default $LAYERCACHE_DATA.",
        show_default=False,
    ),
]
Images = Annotated[
    bool,
    typer.Option("--thumbnails/--no-thumbnails", help="Show test images where they are at hand."),
]
Root = Annotated[
    str | None,
    typer.Option(
        help="Folder of all caches, or s3://BUCKET/PREFIX; default $LAYERCACHE_HOME, else the user's cache folder.",
        show_default=False,
    ),
]


def report(
    *,
    out: Out = Path("layercache-report"),
    model: Model = None,
    dataset: Data = None,
    per_head: PerHead = False,
    details: Details = 12,
    cka_images: CkaImages = 2000,
    data_root: DataRoot = None,
    thumbnails: Images = True,
    cache: Root = None,
) -> None:
    """Turn results into pictures and one page.

    Reads probes, saved heads and caches; never runs a backbone. What is missing for a figure is said on the page, with the command that makes it.
    """
    from layercache.extraction.datasets.registry import dataset_name
    from layercache.extraction.image_lookup import ImageLookup
    from layercache.reporting.api import report as run

    done = run(
        out,
        root=cache,
        model=model,
        dataset=[dataset_name(name) for name in dataset] if dataset else None,
        per_head=per_head,
        details=details,
        cka_images=cka_images,
        thumbnails=ImageLookup(sources=dataset or (), root=data_root, say=typer.echo)
        if thumbnails
        else None,
    )
    for sentence in done.headline:
        typer.echo(sentence)
    typer.echo(
        f"\npage: {done.page}\n{len(done.figures)} figures and {len(done.tables)} tables beside it"
    )
