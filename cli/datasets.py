"""`layercache datasets`: list the datasets, describe one of them, download it."""

from __future__ import annotations

from typing import Annotated

import typer

from layercache_cli._terminal import echo, echo_lines


def datasets(
    name: Annotated[
        str,
        typer.Argument(
            help="Dataset to describe: a listed name, folder:PATH, wds:PATH, hf:NAME or csv:FILE.",
            show_default=False,
        ),
    ] = "",
    data_root: Annotated[
        str | None,
        typer.Option(
            "--data-root",
            help="Folder of the listed datasets' files; "
            "default $LAYERCACHE_DATA, else the user's cache folder.",
            show_default=False,
        ),
    ] = None,
    download: Annotated[
        bool,
        typer.Option("--download", help="Download NAME into the data root if it is missing."),
    ] = False,
) -> None:
    """List the datasets; with NAME, open that one and show its splits and classes."""
    if name:
        _describe(name, data_root, download=download)
    elif download:
        from layercache.errors import OptionError

        raise OptionError(
            "--download needs the name of a dataset: layercache datasets NAME --download"
        )
    else:
        _list()


def _list() -> None:
    from layercache.extraction.datasets.registry import DATASETS, SOURCE_FORMS

    rows = [("name", "classes", "train", "test", "labels", "how to get it")]
    rows += [
        (
            info.name,
            f"{info.num_classes}",
            f"{info.num_train}",
            f"{info.num_test}",
            "several" if info.multi_label else "one",
            info.how_to_get,
        )
        for info in DATASETS.values()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for name, *numbers, labels, how_to_get in rows:
        aligned = [number.rjust(w) for number, w in zip(numbers, widths[1:4], strict=True)]
        columns = [name.ljust(widths[0]), *aligned, labels.ljust(widths[4]), how_to_get]
        echo("  ".join(columns))
    echo_lines("\nYour own images:")
    for form, expected_files in SOURCE_FORMS.items():
        echo(f"  {form.ljust(12)}  {expected_files}")
    echo_lines(
        "\nSplits, and sizes that differ from the paper's "
        "(the probe holds out 20 % of train for validation):"
    )
    for info in DATASETS.values():
        if info.note:
            echo(f"  {info.name.ljust(widths[0])}  {info.note}")
    echo_lines(
        "\nextract downloads what it needs; to download only: "
        "layercache datasets NAME --download --data-root ROOT"
    )


def _describe(name: str, root: str | None, *, download: bool) -> None:
    from layercache.extraction.datasets import DATASETS, describe_dataset, open_dataset

    dataset = open_dataset(name, root=root, offline=not download)
    sizes = ", ".join(f"{split} {len(dataset.split(split).labels)}" for split in dataset.splits)
    per_image = ", several per image" if dataset.multi_label else ""
    echo(f"{dataset.name}: {len(dataset.classes)} classes{per_image}; {sizes}")
    if name in DATASETS and DATASETS[name].note:
        echo(DATASETS[name].note)
    for line in describe_dataset(dataset):
        echo(line)
