"""`layercache datasets`: which data sets there are, what one of them holds, and fetching it."""

from __future__ import annotations

from typing import Annotated

import typer


def datasets(
    name: Annotated[
        str,
        typer.Argument(
            help="Show this one: a listed name, folder:PATH, wds:PATH, hf:NAME or csv:FILE.",
            show_default=False,
        ),
    ] = "",
    data_root: Annotated[
        str | None,
        typer.Option(
            "--data-root",
            help="Folder that torchvision reads; by default $LAYERCACHE_DATA, else in the user's cache.",
            show_default=False,
        ),
    ] = None,
    download: Annotated[
        bool,
        typer.Option("--download", help="Let torchvision fetch NAME into the data root first."),
    ] = False,
) -> None:
    """List the data sets; with NAME, open that one and say what it holds."""
    if name:
        _show(name, data_root, download=download)
    elif download:
        from layercache.errors import OptionError

        raise OptionError(
            "--download needs the name of a data set: layercache datasets NAME --download"
        )
    else:
        _list()


def _list() -> None:
    from layercache.extraction.datasets.listing import ENTRIES, SOURCES

    rows = [("name", "classes", "train", "test", "labels", "how to get it")]
    rows += [
        (
            e.name,
            f"{e.classes}",
            f"{e.train}",
            f"{e.test}",
            "several" if e.multi_label else "one",
            e.get,
        )
        for e in ENTRIES
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        numbers = "  ".join(cell.rjust(w) for cell, w in zip(row[1:4], widths[1:4], strict=True))
        typer.echo(f"{row[0].ljust(widths[0])}  {numbers}  {row[4].ljust(widths[4])}  {row[5]}")
    typer.echo("\nYour own:")
    for form, what in SOURCES.items():
        typer.echo(f"  {form.ljust(12)}  {what}")
    typer.echo(
        "\nSplits, and sizes that differ from the paper's (the probe holds out 20 % of train for validation):"
    )
    for e in ENTRIES:
        if e.note:
            typer.echo(f"  {e.name.ljust(widths[0])}  {e.note}")
    typer.echo("\ndownload: layercache datasets NAME --download --data-root ROOT")


def _show(name: str, root: str | None, *, download: bool) -> None:
    from layercache.extraction.datasets import DATASETS, open_dataset

    dataset = open_dataset(name, root=root, download=download)
    sizes = ", ".join(f"{split} {len(dataset.open(split).labels)}" for split in dataset.splits)
    typer.echo(
        f"{dataset.name}: {len(dataset.classes)} classes{', several per image' if dataset.multi_label else ''}; {sizes}"
    )
    for reason, count in getattr(dataset, "ignored", {}).items():
        typer.echo(f"left out: {count} file{'s' * (count != 1)} ({reason})")
    if name in DATASETS and DATASETS[name].note:
        typer.echo(DATASETS[name].note)
    shown = dataset.classes[:20]
    typer.echo(
        f"classes: {', '.join(shown)}{f' and {len(dataset.classes) - 20} more' if len(dataset.classes) > 20 else ''}"
    )
