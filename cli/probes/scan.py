"""`layercache scan`: every layer and token kind through closed-form heads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercache_cli._terminal import echo, echo_lines
from layercache_cli.options.probe import (
    Data,
    Device,
    Fingerprint,
    MemoryBudget,
    Model,
    Target,
    Task,
)
from layercache_cli.options.shared import Root, TableFile

Head = Annotated[
    list[str] | None,
    typer.Option(help="ridge | lda | knn. Repeatable.", show_default="all that the target allows"),
]
Layers = Annotated[
    str | None,
    typer.Option(help="last | mid-last | quarter | all | 1,5,9.", show_default="all stored"),
]
Tokens = Annotated[
    str | None,
    typer.Option(
        help="cls, ap, reg, std, max, attn, grid:K, joined by +.",
        show_default="all that are one token of a layer",
    ),
]
Subsets = Annotated[
    str | None,
    typer.Option(
        help="Several layers with all kinds together: last, mid-last, quarter, all, joined by "
        "commas; or none.",
        show_default="those that cost little",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the validation part.")]
TestSplit = Annotated[
    str, typer.Option("--test", help="Split to test on; none: validation scores alone.")
]
ValSplit = Annotated[
    str,
    typer.Option(
        "--val",
        help="Split that selects the configurations: auto (val, valid, validation or dev, if there "
        "is one) | none (20 % of train) | SPLIT.",
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Annotation such as a patient or video: samples of one value are held out together.",
        show_default=False,
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        help="Draw the best head's score by layer to a file that ends in .png or .svg.",
        show_default=False,
    ),
]


def scan(
    *,
    model: Model = None,
    dataset: Data = None,
    head: Head = None,
    layers: Layers = None,
    tokens: Tokens = None,
    subsets: Subsets = None,
    target: Target = None,
    task: Task = None,
    seed: Seed = 0,
    test_split: TestSplit = "test",
    val_split: ValSplit = "auto",
    group: Group = None,
    export: TableFile = None,
    plot: Plot = None,
    device: Device = "auto",
    memory_budget: MemoryBudget = None,
    cache: Root = None,
    fingerprint: Fingerprint = None,
) -> None:
    """Score every layer and token kind with closed-form heads, in one read of the cache.

    Fits ridge, lda and knn to each token and to subsets of layers, selects their settings on the
    validation split or a stratified 20 % of the training samples, and tests each once. Nothing is
    stored.
    """
    from layercache.cache import open_cache
    from layercache.probing.results.table.formatting import write_table
    from layercache.probing.scan.api import scan as run

    opened = open_cache(root=cache, model=model, dataset=dataset, fingerprint=fingerprint)
    source = f" ({opened.source})" if opened.source else ""
    echo(f"cache {opened.path}{source}")
    words = None
    if subsets is not None:
        words = [word.strip() for word in subsets.split(",") if word.strip() not in ("", "none")]
    result = run(
        opened,
        heads=head or None,
        layers=layers,
        tokens=tokens,
        subsets=words,
        target=target,
        task=task,
        seed=seed,
        test_split=None if test_split == "none" else test_split,
        val_split=None if val_split == "none" else val_split,
        group=group,
        device=device,
        memory_budget=memory_budget,
    )
    echo()
    echo_lines(result.to_text())
    if export is not None:
        write_table(result.table, export)
        echo(f"written to {export}")
    if plot is not None:
        from layercache.reporting.plotting.depth_curve import depth_curve
        from layercache.reporting.plotting.figure import save_figure

        for path in save_figure(depth_curve(result), plot):
            echo(f"plot: {path}")
