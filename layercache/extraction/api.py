"""The public `extract`: a dataset and backbones to caches; only what is missing is extracted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from layercache._interruption import reraise_interrupt, sigterm_as_interrupt
from layercache._units import format_bytes, pluralize
from layercache.cache.cache import load_cache
from layercache.cache.format.cache_spec import Precision, StorageDtype, Tap
from layercache.cache.format.layout import planned_bytes
from layercache.cache.origin_records import record_origin
from layercache.cache.storage.paths import CachePath
from layercache.engine import cluster_device, open_engine
from layercache.errors import CacheError, OptionError
from layercache.extraction.datasets import describe_dataset
from layercache.extraction.datasets.base import Dataset
from layercache.extraction.determinism import deterministic
from layercache.extraction.models.encoder import Encoder
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.preprocessing.transform import Background
from layercache.extraction.options import (
    DeviceName,
    ExtractOptions,
    OnError,
    as_list,
    weights_by_model,
)
from layercache.extraction.plan import ExtractionPlan, PlannedCache, assign_device, make_plan
from layercache.extraction.result import Extraction, RunStats
from layercache.extraction.resume import remove_leftovers, saved_rows, size_on_disk
from layercache.extraction.runner import extract_splits

Confirm = Callable[[str], bool]

logger = logging.getLogger(__name__)


def extract(
    *,
    models: str | Encoder | Sequence[str | Encoder],
    dataset: str | Dataset,
    name: str | None = None,
    weights: str | Path | Mapping[str, str | Path] | None = None,
    data_root: str | Path | None = None,
    offline: bool = False,
    splits: str | Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    tap: Tap = "norm2",
    layers: str | int | Sequence[int] = "all",
    tokens: str | Sequence[str] = "cls+ap",
    spatial: str | None = None,
    spatial_layers: str | int | Sequence[int] = "last",
    store: str | None = None,
    projected: bool = False,
    paper_compat: bool = False,
    preprocessing: PreprocessingOptions | None = None,
    background: Background = "drop",
    precision: Precision = "fp32",
    storage_dtype: StorageDtype = "float16",
    compressor: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: DeviceName = "auto",
    compile: bool = False,
    deterministic: bool = False,
    on_error: OnError = "raise",
    cache: str | CachePath | None = None,
    wait_for_lock: bool = False,
    engine: str = "local",
    ray_address: str | None = None,
    confirm: Confirm | bool = True,
    confirm_above: int = 20 << 30,
    progress: bool = True,
) -> list[Extraction]:
    """Run frozen ViTs over a dataset, one forward per image, into one cache per model.

    Complete splits are left alone; an interrupted one is continued and ends with the same bytes.
    Classes, left-out files, sizes, device and decoding are logged before the work starts.

    Args:
        models: Backbone or backbones: short names, timm names, addresses of timm models
            ("hf-hub:ORG/NAME", "local-dir:PATH"), an `Encoder` of your own, or FILE.py:FUNCTION of
            a function that returns one. Several share every decode.
        dataset: Name of a dataset, "folder:PATH", or a `Dataset` of your own (its samples must be
            picklable, unless `workers` is 0).
        name: Name of the dataset in caches and tables; default: its own, of a path the last part.
        weights: Checkpoint file (safetensors or torch) of the only model, or model -> file; without
            one, what ships with the package or what timm downloads.
        data_root: Folder of named datasets; default $LAYERCACHE_DATA, else the user's cache folder.
        offline: Forbid downloads of datasets and weights, as $LAYERCACHE_OFFLINE does.
        splits: Split or splits to extract, in order; empty: all of them.
        limit: Largest number of samples of every split, stratified by class; part of the cache's
            identity.
        seed: Seed of the sampling by `limit`.
        tap: Where a layer's tokens are read: "norm2" (as in the paper), "block", "block-norm", or
            inside the block "norm1", "attn", "fc1", "act", "mlp" (docs/taps.md).
        layers: "all", "last", "mid-last", "quarter", "1,5,9", a number or numbers of 1..B.
        tokens: Token kinds: "cls", "ap" (mean of the patches), "reg" (mean of the registers), "std"
            and "max" (of each channel over the patches), "attn" (mean of the patches, weighted by
            the class token's attention), "grid:K", "patch" (every patch token) and "all" (the class
            token and every patch token), joined by "+".
        spatial: Spatial tokens, "patch" (every patch), "all" (every patch and CLS) or "grid:K",
            that go to a second cache of each model, with layers of their own, from the same
            forward.
        spatial_layers: Layers of the spatial tokens, as `layers`.
        store: How the spatial tokens "patch" and "grid:K" are stored: None (as `storage_dtype`),
            "int8", "pca:R" (R principal components), "pca:R:float16" or "pq:M" (product
            quantization, M bytes a token). The tables are fitted on 256 training images.
        projected: Store CLIP's last layer after its projection.
        paper_compat: Preprocess images for DINOv2 and MAE as the paper's own extractor does.
        preprocessing: Parts of every model's own preprocessing to replace: the input size, the
            crop, the filter, mean and standard deviation.
        background: What transparent pixels become: "drop" the alpha channel, so that the colours it
            hid appear, or composite the image on "white" or "black".
        precision: Arithmetic of the forward: "fp32", "bf16" or "fp16"; tokens are pooled in float32
            in any case.
        storage_dtype: dtype of the stored tokens: "float16" or "float32".
        compressor: Compression of the stored tokens: None (fastest), "zstd[:LEVEL]" or
            "blosc[:LEVEL]".
        batch_size: Images per forward; default 256 on a GPU, 64 on a CPU. Changes tokens by
            rounding at most (benchmarks/LOG.md), so it is not part of the identity.
        workers: Number of decoding processes; 0 decodes in a thread of this process; default:
            measured on a few samples.
        device: "cpu", "cuda", "mps", or "auto" for a GPU if there is one: CUDA, else an Apple GPU.
        compile: Use torch.compile for the forward; as `batch_size`, not part of the identity.
        deterministic: Use only deterministic algorithms on a GPU; a CPU is deterministic in any
            case.
        on_error: What to do with an image that cannot be decoded: "raise" an error, or "skip" it
            and list it in the cache. An image without a label is extracted like any other.
        cache: Folder of all caches or s3://BUCKET/PREFIX; default $LAYERCACHE_HOME, else the user's
            cache folder.
        wait_for_lock: Wait for another process that is writing the same split, instead of raising
            CacheBusyError.
        engine: Where the forwards run: "local", or "ray" for a Ray cluster; the bytes are the same.
        ray_address: Address of a running Ray cluster ("auto", "HOST:PORT"); None starts one on this
            machine alone.
        confirm: Whether a large cache needs confirmation: a function that is called with the
            question, True to raise OptionError, False to write it without asking.
        confirm_above: Bytes to be written above which a cache is large.
        progress: Whether to show a progress bar on stderr, if that is a terminal.

    Returns:
        One Extraction per model, in the order of `models`; with `spatial`, that of the spatial
        tokens follows.

    Raises:
        LayercacheError: OptionError, UnknownNameError, BackboneError, DataError, CacheBusyError,
            StorageError, NonFiniteError or WorkerError. What is committed is kept and the same call
            continues.
        Interrupted: Ctrl-C or SIGTERM. What is committed is kept and the same call continues.
    """
    options = ExtractOptions(
        models=as_list(models),
        dataset=dataset,
        name=name,
        weights=weights_by_model(weights, models=as_list(models)),
        data_root=data_root,
        offline=offline,
        splits=as_list(splits),
        limit=limit,
        seed=seed,
        tap=tap,
        layers=[layers] if isinstance(layers, int) else layers,
        tokens=tokens,
        spatial=spatial,
        spatial_layers=[spatial_layers] if isinstance(spatial_layers, int) else spatial_layers,
        store=store,
        projected=projected,
        paper_compat=paper_compat,
        preprocessing=PreprocessingOptions() if preprocessing is None else preprocessing,
        background=background,
        precision=precision,
        storage_dtype=storage_dtype,
        compressor=compressor,
        batch_size=batch_size,
        workers=workers,
        device=device,
        compile=compile,
        deterministic=deterministic,
        on_error=on_error,
        cache=cache,
        wait_for_lock=wait_for_lock,
        engine=engine,
        ray_address=ray_address,
    )
    return _run(options, confirm=confirm, confirm_above=confirm_above, progress=progress)


def _run(
    options: ExtractOptions, *, confirm: Confirm | bool, confirm_above: int, progress: bool
) -> list[Extraction]:
    with deterministic(options.deterministic), sigterm_as_interrupt():
        plan = make_plan(options)
        for target in plan.targets:
            if not target.pending:
                record_origin(target.path, target.origin)
                plan.record_label(target)
            for split in target.leftovers:
                remove_leftovers(plan.root, target.spec, split, plan.dataset.split(split))
        stats: dict[str, RunStats] = {}
        if any(target.pending for target in plan.targets):
            _log_plan(plan)
            plan.check_free_space()
            _confirm(plan, confirm, above=confirm_above)
            with (
                reraise_interrupt(lambda: _describe_progress(plan)),
                open_engine(options.engine, ray_address=options.ray_address) as engine,
            ):
                if (choice := cluster_device(engine, options.device)) is not None:
                    device, reason = choice
                    plan = assign_device(plan, options, device=device, reason=reason)
                stats = extract_splits(plan, options, engine=engine, progress=progress)
        return [
            _result(plan, target, stats.get(target.spec.fingerprint, RunStats()))
            for target in plan.targets
        ]


def _log_plan(plan: ExtractionPlan) -> None:
    rows = {split: plan.targets[0].spec.dataset.splits[split].rows for split in plan.splits}
    splits = ", ".join(f"{split} {n}" for split, n in rows.items())
    logger.info("%s: %s images", plan.dataset.name, splits)
    for line in describe_dataset(plan.dataset):
        logger.info("  %s", line)
    for target in plan.targets:
        spec = target.spec
        size = sum(planned_bytes(spec, rows[split]) for split in plan.splits)
        state = ""
        if not target.pending:
            state = ", already complete"
        elif not target.missing_bytes:  # files whose records are lost or do not match
            state = ", to be repaired"
        elif target.missing_bytes < size:
            state = f", {format_bytes(target.missing_bytes)} of it still to be written"
        logger.info(
            "%s: %s x %s x %d (%s, %s), %s%s: %s",
            spec.model,
            pluralize(len(spec.layers), "layer"),
            pluralize(len(spec.tokens), "token"),
            spec.width,
            spec.tap,
            spec.codec or spec.storage_dtype,
            format_bytes(size),
            state,
            target.path,
        )
        logger.info("  preprocessing: %s", target.backbone.preprocessing)
        for note in target.backbone.notes:
            logger.info("  note: %s", note)


def _confirm(plan: ExtractionPlan, confirm: Confirm | bool, *, above: int) -> None:
    if plan.missing_bytes <= above or confirm is False:
        return
    size = f"this writes {format_bytes(plan.missing_bytes)}, more than {format_bytes(above)}"
    if confirm is True:
        raise OptionError(
            f"{size}: allow it with confirm=False (--yes), or store less (`layers`, `tokens`, "
            "`limit`)"
        )
    if not confirm(f"{size}. Continue?"):
        raise OptionError("nothing was written")


def _describe_progress(plan: ExtractionPlan) -> str:
    committed = total = rows = 0
    for target in plan.targets:
        for split in plan.splits:
            try:
                split_committed, split_total = load_cache(target.path).progress(split)
            except CacheError:
                split_committed, split_total = 0, 1
            committed += split_committed
            total += split_total
            rows += saved_rows(target.path, target.spec, split)
    unfinished = f", with {pluralize(rows, 'image')} of the next" if rows else ""
    return (
        f"{committed} of {total} row blocks are committed and kept; the same command continues "
        f"from there{unfinished}"
    )


def _result(plan: ExtractionPlan, target: PlannedCache, stats: RunStats) -> Extraction:
    cache = load_cache(target.path)
    counts = [cache.split(split).saturated for split in plan.splits]
    rows = sum(cache.split(split).rows for split in plan.splits)
    codes = rows * len(target.spec.layers) * len(target.spec.tokens) * target.spec.code_width
    return Extraction(
        model=target.spec.model,
        dataset=target.spec.dataset.name,
        path=target.path,
        splits=plan.splits,
        background=target.backbone.preprocessing.background,
        rows=sum(target.spec.dataset.splits[split].rows for split in plan.splits),
        skipped=sum(len(cache.split(split).skipped) for split in plan.splits),
        bytes=sum(size_on_disk(target.path, target.spec, split) for split in plan.splits),
        codec=target.spec.codec,
        saturated=sum(filter(None, counts)) / max(codes, 1),
        **vars(stats),
    )
