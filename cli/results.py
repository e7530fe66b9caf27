"""`layercache results`: the table of all probes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercache_cli._terminal import echo, echo_lines

Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Only this backbone.", show_default=False)
]
Data = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        "-d",
        help="Only this dataset: its name, or its source, as in folder:PATH.",
        show_default=False,
    ),
]
Head = Annotated[str | None, typer.Option(help="Only this head.", show_default=False)]
Layers = Annotated[
    str | None, typer.Option(help="Only these layers: last, all, 1,5,9 ...", show_default=False)
]
Tokens = Annotated[
    str | None, typer.Option(help="Only these tokens: cls, cls+ap ...", show_default=False)
]
OverSeeds = Annotated[
    bool, typer.Option("--over-seeds", help="One row for all seeds: mean and standard deviation.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--export",
        "-o",
        help="Write the table to a file that ends in .csv, .parquet, .tex or .md.",
        show_default=False,
    ),
]
Root = Annotated[
    str | None,
    typer.Option(
        help="Folder of all caches, or s3://BUCKET/PREFIX; "
        "default $LAYERCACHE_HOME, else the user's cache folder.",
        show_default=False,
    ),
]


def results(
    *,
    model: Model = None,
    dataset: Data = None,
    head: Head = None,
    layers: Layers = None,
    tokens: Tokens = None,
    over_seeds: OverSeeds = False,
    export: Out = None,
    cache: Root = None,
) -> None:
    """Print or export the table of all probes.

    The gain is the test balanced accuracy minus that of a linear head on the last class token of
    the same weights, dataset, splits, seed and training subset, trained in the same way. If only
    other baselines exist, the difference is named below the table.
    """
    from layercache.probing.results.table import read_results

    all_results = read_results(cache, dataset=dataset)
    chosen = all_results.filter(
        model=model,
        head=head,
        layers=layers,
        tokens=tokens,
    )
    echo_lines(chosen.to_text(gain=True, among=all_results, over_seeds=over_seeds))
    if export is not None:
        echo()
        echo(f"written to {chosen.export(export, among=all_results, over_seeds=over_seeds)}")
