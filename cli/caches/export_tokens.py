"""`layercache export-tokens`: tokens of a cache as parquet, HDF5 or npy files."""

from __future__ import annotations

from typing import Annotated

import typer

from layercache_cli._terminal import echo
from layercache_cli.options.shared import CacheFolder, Dataset, Fingerprint, Model, Root


def export_tokens(
    cache: CacheFolder = None,
    *,
    out: Annotated[
        str, typer.Option("--out", "-o", help="File to write; for npy a folder.", metavar="PATH")
    ],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="parquet, h5 or npy.",
            show_default="by the ending of --out, else npy",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers", help="last, mid-last, quarter, all or numbers (1,5).", show_default="stored"
        ),
    ] = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens", help="Token kinds: cls+ap.", show_default="stored")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="Split; repeatable.", show_default="all complete ones"),
    ] = None,
    root: Root = None,
    model: Model = None,
    dataset: Dataset = None,
    fingerprint: Fingerprint = None,
) -> None:
    """Write tokens, ids and annotations of a cache in a format that other tools read.

    parquet: a row for each sample, a column for each token; h5: a group for each split with tokens
    (N, T, D), ids and labels; npy: a folder with an array (N, T, D) for each split.
    """
    from layercache._units import pluralize
    from layercache.cache.export_tokens import FORMATS
    from layercache.cache.export_tokens import export_tokens as run
    from layercache.cache.find import open_cache

    ending = out.rpartition(".")[2]
    opened = open_cache(cache, root=root, model=model, dataset=dataset, fingerprint=fingerprint)
    export = run(
        opened,
        out,
        format=format_ or (ending if ending in FORMATS else "npy"),
        layers=layers,
        tokens=tokens,
        splits=split,
    )
    rows = ", ".join(f"{name} {pluralize(n, 'sample')}" for name, n in export.rows.items())
    echo(f"{export.path}: {rows}, {pluralize(len(export.tokens), 'token')} of {opened.spec.width}")
