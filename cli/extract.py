"""`layercache extract`: images through frozen ViTs into caches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        help="Backbone: a name of `layercache models`, or any timm ViT. Repeatable: all share one decode.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--dataset",
        "-d",
        help="Data set: a name of `layercache datasets`, or your own: folder:PATH, wds:PATH, hf:NAME, csv:FILE.",
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[MODEL=]FILE",
        help="Local checkpoint (safetensors or torch); with several models, MODEL=FILE.",
        show_default=False,
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the data set's files; default $LAYERCACHE_DATA.", show_default=False
    ),
]
Download = Annotated[bool, typer.Option("--download", help="Fetch a data set that is not there.")]
Split = Annotated[
    list[str] | None,
    typer.Option("--split", help="Only this split; repeatable.", show_default="all"),
]
Limit = Annotated[
    int | None,
    typer.Option(
        help="At most so many samples of each split, stratified by class.", show_default=False
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the draw of --limit.")]
Tap = Annotated[
    str, typer.Option(help="Where a layer's tokens are read: norm2 | block | block-norm.")
]
Layers = Annotated[
    str, typer.Option(help="all | last | mid-last | quarter | numbers, as in 1,5,9.")
]
Tokens = Annotated[str, typer.Option(help="cls, ap, grid:K, all (every patch), joined by +.")]
BatchSize = Annotated[
    int | None,
    typer.Option(help="Images of one forward.", show_default="256 on a GPU, 64 on a CPU"),
]
Workers = Annotated[
    int | None, typer.Option(help="Decoding processes; 0: a thread.", show_default="measured")
]
Device = Annotated[str, typer.Option(help="auto | cpu | cuda.")]
Precision = Annotated[str, typer.Option(help="Arithmetic of the forward: fp32 | bf16 | fp16.")]
StorageDtype = Annotated[str, typer.Option(help="Stored tokens: float16 | float32.")]
Codec = Annotated[
    str | None,
    typer.Option(help="Compress stored tokens: zstd | blosc, with :LEVEL.", show_default="none"),
]
Projected = Annotated[
    bool, typer.Option("--projected", help="Store CLIP's last layer after its projection.")
]
PaperCompat = Annotated[
    bool, typer.Option("--paper-compat", help="The paper's own preprocessing of DINOv2 and MAE.")
]
OnError = Annotated[
    str,
    typer.Option(help="An image that cannot be decoded: stop | skip (and list it in the cache)."),
]
Cache = Annotated[
    str | None,
    typer.Option(
        help="Folder of all caches, or s3://BUCKET/PREFIX; default $LAYERCACHE_HOME, else the user's cache folder.",
        show_default=False,
    ),
]
Compile = Annotated[bool, typer.Option("--compile", help="torch.compile the forward.")]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Only deterministic algorithms on a GPU (a CPU is deterministic anyhow).",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a large cache.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for another process that writes the same split.")
]
Engine = Annotated[
    str, typer.Option(help="Where the forwards run: local | ray (a Ray cluster; the same bytes).")
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to join: auto | HOST:PORT.",
        show_default="with --engine ray, one of this machine alone",
    ),
]


def extract(
    *,
    model: Model,
    dataset: Data,
    weights: Weights = None,
    data_root: DataRoot = None,
    download: Download = False,
    split: Split = None,
    limit: Limit = None,
    seed: Seed = 0,
    tap: Tap = "norm2",
    layers: Layers = "all",
    tokens: Tokens = "cls+ap",
    batch_size: BatchSize = None,
    workers: Workers = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    store_dtype: StorageDtype = "float16",
    codec: Codec = None,
    projected: Projected = False,
    paper_compat: PaperCompat = False,
    on_error: OnError = "stop",
    cache: Cache = None,
    compile: Compile = False,
    deterministic: Deterministic = False,
    yes: Yes = False,
    wait: Wait = False,
    engine: Engine = "local",
    address: Address = None,
) -> None:
    """Run frozen ViTs over a data set once; cache the tokens of every layer.

    Stop it whenever you like: the same command continues where it was. A complete cache is left alone.
    """
    from layercache.extraction.api import extract as run
    from layercache.extraction.options import weights_of

    done = run(
        models=model,
        dataset=dataset,
        weights=weights_of(weights or [], model),
        data_root=data_root,
        download=download,
        splits=split or [],
        limit=limit,
        seed=seed,
        tap=tap,
        layers=layers,
        tokens=tokens,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision,
        store_dtype=store_dtype,
        codec=codec,
        projected=projected,
        paper_compat=paper_compat,
        on_error=on_error,
        cache=cache,
        compile=compile,
        deterministic=deterministic,
        yes=yes,
        wait=wait,
        engine=engine,
        address=address,
        say=typer.echo,
        confirm=typer.confirm if sys.stdin.isatty() else None,
    )
    for extraction in done:
        typer.echo(extraction.summary())
