"""`layercache extract`: images through frozen ViTs into caches."""

from __future__ import annotations

import sys

from layercache_cli._terminal import confirm, echo
from layercache_cli.options.extract import (
    Address,
    Background,
    BatchSize,
    Cache,
    Compile,
    Compressor,
    CropMode,
    CropPct,
    Data,
    DataRoot,
    Deterministic,
    Device,
    Download,
    Engine,
    InputSize,
    Interpolation,
    Layers,
    Limit,
    Mean,
    Model,
    Name,
    Offline,
    OnError,
    PaperCompat,
    Precision,
    Projected,
    Seed,
    Split,
    Std,
    StorageDtype,
    Tap,
    Tokens,
    Wait,
    Weights,
    Workers,
    Yes,
)


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
    projected: Projected = False,
    paper_compat: PaperCompat = False,
    input_size: InputSize = None,
    crop_pct: CropPct = None,
    crop_mode: CropMode = None,
    interpolation: Interpolation = None,
    mean: Mean = None,
    std: Std = None,
    background: Background = "drop",
    batch_size: BatchSize = None,
    workers: Workers = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    storage_dtype: StorageDtype = "float16",
    compressor: Compressor = None,
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
    from layercache.extraction.models.preprocessing.options import PreprocessingOptions
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
