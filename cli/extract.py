"""`layercache extract`: images through frozen ViTs into caches."""

from __future__ import annotations

import sys

from layercache_cli._terminal import confirm, echo
from layercache_cli.options import extract as options
from layercache_cli.options.shared import Root


def extract(
    *,
    model: options.Model,
    dataset: options.Data,
    name: options.Name = None,
    weights: options.Weights = None,
    data_root: options.DataRoot = None,
    download: options.Download = False,
    offline: options.Offline = False,
    split: options.Split = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    tap: options.Tap = "norm2",
    layers: options.Layers = "all",
    tokens: options.Tokens = "cls+ap",
    spatial: options.Spatial = None,
    spatial_layers: options.SpatialLayers = "last",
    projected: options.Projected = False,
    paper_compat: options.PaperCompat = False,
    input_size: options.InputSize = None,
    crop_pct: options.CropPct = None,
    crop_mode: options.CropMode = None,
    interpolation: options.Interpolation = None,
    mean: options.Mean = None,
    std: options.Std = None,
    background: options.Background = "drop",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    device: options.Device = "auto",
    precision: options.Precision = "fp32",
    storage_dtype: options.StorageDtype = "float16",
    store: options.Store = None,
    compressor: options.Compressor = None,
    on_error: options.OnError = "raise",
    cache: Root = None,
    compile: options.Compile = False,
    deterministic: options.Deterministic = False,
    yes: options.Yes = False,
    wait: options.Wait = False,
    engine: options.Engine = "local",
    address: options.Address = None,
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
        spatial=spatial,
        spatial_layers=spatial_layers,
        store=store,
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
