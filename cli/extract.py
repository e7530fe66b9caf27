"""`layercache extract`: images through frozen ViTs into caches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from layercache_cli._terminal import confirm, echo

Model = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        help="Backbone: see `layercache models`, any timm ViT, hf-hub:ORG/NAME or local-dir:PATH, "
        "one of transformers, hf:ORG/NAME or hf:PATH, or of OpenCLIP, open_clip:NAME/TAG, or "
        "FILE.py:FUNCTION of an encoder of your own. Repeatable: they share decodes.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--dataset",
        "-d",
        help="Dataset: see `layercache datasets`, or folder:PATH, wds:PATH, hf:NAME, csv:FILE.",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        help="Name of the dataset in caches and tables.",
        show_default="its own; of a path the last part",
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
        help="Folder of the dataset's files; default $LAYERCACHE_DATA.", show_default=False
    ),
]
Download = Annotated[
    bool, typer.Option("--download", hidden=True, help="No effect: missing files are downloaded.")
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline", help="Download neither dataset nor weights; also $LAYERCACHE_OFFLINE."
    ),
]
Split = Annotated[
    list[str] | None,
    typer.Option("--split", help="Only this split; repeatable.", show_default="all"),
]
Limit = Annotated[
    int | None,
    typer.Option(
        help="Largest number of samples of each split, stratified by class.", show_default=False
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the sampling by --limit.")]
Tap = Annotated[
    str,
    typer.Option(
        help="Where layer l of 1..B is read. norm2: in block l + 1, for l = B the final norm | "
        "block: the residual stream after block l | block-norm: that through the final norm | "
        "norm1, attn, fc1, act (the MLP's inner activation), mlp: inside block l, B alike.",
        metavar="TAP",
    ),
]
Layers = Annotated[
    str, typer.Option(help="all | last | mid-last | quarter | numbers, as in 1,5,9.")
]
Tokens = Annotated[
    str,
    typer.Option(
        help="cls, ap (mean of the patches), reg (of the registers), std, max (over the patches), "
        "attn (mean weighted by the class token's attention), grid:K, all (every patch), joined "
        "by +."
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(help="Images per forward.", show_default="256 on a GPU, 64 on a CPU"),
]
Workers = Annotated[
    int | None, typer.Option(help="Decoding processes; 0: a thread.", show_default="measured")
]
Device = Annotated[str, typer.Option(help="auto | cpu | cuda | mps.")]
Precision = Annotated[str, typer.Option(help="Arithmetic of the forward: fp32 | bf16 | fp16.")]
StorageDtype = Annotated[
    str,
    typer.Option(
        "--storage-dtype", "--store-dtype", help="dtype of the stored tokens: float16 | float32."
    ),
]
Compressor = Annotated[
    str | None,
    typer.Option(
        "--compressor",
        "--codec",
        help="Compression of the stored tokens: zstd | blosc, with :LEVEL.",
        show_default="none",
    ),
]
Projected = Annotated[
    bool, typer.Option("--projected", help="Store CLIP's last layer after its projection.")
]
PaperCompat = Annotated[
    bool, typer.Option("--paper-compat", help="Preprocess for DINOv2 and MAE as the paper does.")
]
Background = Annotated[
    str,
    typer.Option(
        help="Transparent pixels: drop the alpha channel, so that the colours it hid appear | put "
        "them on white | black.",
        metavar="drop|white|black",
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        help="Pixels of the model's input, a multiple of its patches.",
        metavar="H[xW]",
        show_default="the model's own",
    ),
]
CropPct = Annotated[
    float | None,
    typer.Option(
        help="Side of the crop over that of the resized image, up to 1.",
        show_default="the model's own",
    ),
]
CropMode = Annotated[
    str | None,
    typer.Option(
        help="How the image is scaled: fill and crop | stretch | fit inside and pad.",
        metavar="center|squash|border",
        show_default="the model's own",
    ),
]
Interpolation = Annotated[
    str | None,
    typer.Option(
        help="Filter of the resize: bicubic | bilinear | lanczos | box | hamming | nearest.",
        metavar="FILTER",
        show_default="the model's own",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Mean per channel, of values in 0..1.",
        metavar="R,G,B",
        show_default="the model's own",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        help="Standard deviation per channel, of values in 0..1.",
        metavar="R,G,B",
        show_default="the model's own",
    ),
]
OnError = Annotated[
    str,
    typer.Option(
        help="An image that cannot be decoded: raise an error | skip it and list it in the cache.",
        metavar="raise|skip",
    ),
]
Cache = Annotated[
    str | None,
    typer.Option(
        help="Folder of all caches or s3://BUCKET/PREFIX; default $LAYERCACHE_HOME.",
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
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Write a large cache without asking.")]
Wait = Annotated[
    bool,
    typer.Option("--wait", help="Wait for another process that is writing the same split."),
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
    name: Name = None,
    weights: Weights = None,
    data_root: DataRoot = None,
    download: Download = False,
    offline: Offline = False,
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
    storage_dtype: StorageDtype = "float16",
    compressor: Compressor = None,
    projected: Projected = False,
    paper_compat: PaperCompat = False,
    input_size: InputSize = None,
    crop_pct: CropPct = None,
    crop_mode: CropMode = None,
    interpolation: Interpolation = None,
    mean: Mean = None,
    std: Std = None,
    background: Background = "drop",
    on_error: OnError = "raise",
    cache: Cache = None,
    compile: Compile = False,
    deterministic: Deterministic = False,
    yes: Yes = False,
    wait: Wait = False,
    engine: Engine = "local",
    address: Address = None,
) -> None:
    """Run frozen ViTs over a dataset once; cache the tokens of every layer.

    It may be stopped at any time: the same command continues from there. A complete cache is left
    alone.
    """
    from layercache.extraction.api import extract as run
    from layercache.extraction.models.preprocessing_options import PreprocessingOptions
    from layercache.extraction.options import parse_weights

    done = run(
        models=model,
        dataset=dataset,
        name=name,
        weights=parse_weights(weights or [], model),
        data_root=data_root,
        offline=offline,
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
        storage_dtype=storage_dtype,
        compressor=compressor,
        projected=projected,
        paper_compat=paper_compat,
        preprocessing=PreprocessingOptions.parse(
            input_size=input_size,
            crop_pct=crop_pct,
            crop_mode=crop_mode,
            interpolation=interpolation,
            mean=mean,
            std=std,
        ),
        background=background,
        on_error="raise" if on_error == "stop" else on_error,  # "stop": of earlier versions
        cache=cache,
        compile=compile,
        deterministic=deterministic,
        confirm=not yes and (confirm if sys.stdin.isatty() else True),
        wait_for_lock=wait,
        engine=engine,
        ray_address=address,
    )
    for extraction in done:
        echo(extraction.summary())
