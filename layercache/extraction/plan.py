"""The plan of an extraction: caches, pending splits, device, batch size, disk space."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from layercache._devices import resolve_device
from layercache._units import format_bytes
from layercache.cache.annotations.label import label_column, record_label
from layercache.cache.format.cache_spec import CacheSpec, DatasetIdentity
from layercache.cache.format.codecs.codec_spec import CodecSpec
from layercache.cache.format.compressor import Compressor
from layercache.cache.format.layout import cache_folder, planned_bytes
from layercache.cache.format.origin import Origin, dataset_source, is_encoder_file
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import CachePath, cache_root
from layercache.errors import DataError, OptionError, StorageError, UnknownNameError
from layercache.extraction import datasets
from layercache.extraction.datasets.base import Dataset
from layercache.extraction.models.backbone import Backbone
from layercache.extraction.models.encoder import Encoder
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.preprocessing.options import check_divisible
from layercache.extraction.models.sources import describe_model
from layercache.extraction.options import ExtractOptions, model_name
from layercache.extraction.pipeline.batching import OUTPUT_LIMIT
from layercache.extraction.resume import has_leftovers, is_complete, size_on_disk

logger = logging.getLogger(__name__)

BATCH_SIZE = {"cpu": 64, "cuda": 256, "mps": 64}
"""Default batch size."""


@dataclass(frozen=True, kw_only=True)
class PlannedCache:
    """A model's cache of the dataset; with `spatial`, one of its two."""

    model: str | Encoder
    """The model as requested."""
    backbone: Backbone
    spec: CacheSpec
    path: CachePath
    """Folder of the cache."""
    origin: Origin
    """Origin of images and weights, to be recorded in the cache."""
    pending: tuple[str, ...]
    """Requested splits that are not complete."""
    leftovers: tuple[str, ...]
    """Complete splits with leftovers of a killed writer; see `resume.has_leftovers`."""

    @property
    def missing_bytes(self) -> int:
        """Bytes still to be written, uncompressed."""
        total = 0
        for split in self.pending:
            planned = planned_bytes(self.spec, self.spec.dataset.splits[split].rows)
            total += max(0, planned - size_on_disk(self.path, self.spec, split))
        return total


@dataclass(frozen=True, kw_only=True)
class ExtractionPlan:
    """All caches of one call of `extract`."""

    dataset: Dataset
    """The dataset, limited as requested."""
    splits: tuple[str, ...]
    """Requested splits, in order."""
    root: CachePath
    """Folder of all caches."""
    device: str
    """"cpu", "cuda" or "mps"."""
    device_reason: str
    """Why this device was chosen, for the user."""
    batch_size: int
    targets: tuple[PlannedCache, ...]
    """One per model, in the order requested; with `spatial`, that of these tokens follows."""

    @property
    def missing_bytes(self) -> int:
        """Bytes still to be written for all models, uncompressed."""
        return sum(target.missing_bytes for target in self.targets)

    def record_label(self, target: PlannedCache) -> None:
        """Make the dataset's labels those of a cache that has been begun; log what changes."""
        identities = target.spec.dataset.splits
        labels = {name: self.dataset.split(name).labels for name in identities}
        column = label_column(labels, classes=self.dataset.classes, splits=identities)
        record_label(open_store(target.path), column)

    def check_free_space(self) -> None:
        """Raise StorageError if the disk is too small for what is missing."""
        if not isinstance(self.root, Path):
            return
        folder = next(p for p in (self.root, *self.root.parents) if p.exists())
        free = shutil.disk_usage(folder).free
        if self.missing_bytes > free:
            raise StorageError(
                f"{self.root}: the cache needs {format_bytes(self.missing_bytes)} more and the "
                f"disk has {format_bytes(free)} free: make room, choose another disk with `cache`, "
                "or store less (`layers`, `tokens`, `limit`)"
            )


def make_plan(options: ExtractOptions) -> ExtractionPlan:
    """Open the dataset, load the backbones and look for existing caches.

    With a cluster the backbones are loaded on the CPU, only to identify the caches; `assign_device`
    then chooses the device of the workers.

    Args:
        options: What to extract.

    Raises:
        LayercacheError: A name, a file or an option is wrong.
    """
    if options.compressor is not None:
        Compressor(options.compressor)  # refuses unknown words before anything is read
    for model in options.models:
        if isinstance(model, Encoder) or is_encoder_file(model):
            continue  # whether it runs at a size is known from its forward
        # refuses an unknown model before the dataset is looked for
        info = describe_model(model, offline=options.offline)
        if isinstance(size := options.preprocessing.input_size, tuple):
            check_divisible(size, (info.patch_size,) * 2, model=model)
    device, reason = "cpu", ""
    if options.engine == "local":
        chosen, reason = resolve_device(options.device)
        device = chosen.type
    dataset = options.dataset
    if isinstance(dataset, str):
        dataset = datasets.open_dataset(dataset, root=options.data_root, offline=options.offline)
    if options.name is not None and options.name != dataset.name:
        dataset = datasets.rename_dataset(dataset, options.name)
    for split in options.splits:
        if split not in dataset.splits:
            raise UnknownNameError(f"split of dataset {dataset.name}", split, dataset.splits)
    splits = tuple(options.splits) or dataset.splits
    for split in splits:
        datasets.check_labels(dataset, split)
    dataset = datasets.limit_samples(dataset, options.limit, seed=options.seed)
    root = cache_root(options.cache)
    backbones = [load_model(options, model, device) for model in options.models]
    identity = datasets.dataset_identity(dataset, options.limit, seed=options.seed)
    if options.on_error == "raise":
        _refuse_unreadable(dataset, splits)
    targets = tuple(
        _target(model, backbone, identity, root, splits, _origin(options, model), codec=codec)
        for model, loaded in zip(options.models, backbones, strict=True)
        for backbone, codec in ((loaded, None), (loaded.spatial, options.store))
        if backbone is not None
    )
    if len({target.path for target in targets}) < len(targets):
        names = ", ".join(map(model_name, options.models))
        raise OptionError(
            f"models: {names} name one cache twice"
            + ("" if options.spatial is None else ", or tokens and spatial name the same tokens")
        )
    return ExtractionPlan(
        dataset=dataset,
        splits=splits,
        root=root,
        device=device,
        device_reason=reason,
        batch_size=_batch_size(options, device, [target.spec for target in targets]),
        targets=targets,
    )


def _batch_size(options: ExtractOptions, device: str, specs: Sequence[CacheSpec]) -> int:
    """Return the images of a forward.

    With spatial tokens it is a power of two, so that the batches of both caches of a model are the
    same, and small enough for the tokens before they are encoded.
    """
    batch_size = options.batch_size or BATCH_SIZE[device]
    if options.spatial is None:
        return batch_size
    row_bytes = max(len(s.layers) * len(s.tokens) * s.width * 4 for s in specs)
    largest = max(1, min(batch_size, OUTPUT_LIMIT // row_bytes))
    chosen: int = 1 << (largest.bit_length() - 1)
    if options.batch_size not in (None, chosen):
        logger.info("batches of %d images, so that both caches share each forward", chosen)
    return chosen


def assign_device(
    plan: ExtractionPlan, options: ExtractOptions, *, device: str, reason: str
) -> ExtractionPlan:
    """Return the plan with its forwards on another device, that of a cluster's workers."""
    batch_size = _batch_size(options, device, [target.spec for target in plan.targets])
    return replace(plan, device=device, device_reason=reason, batch_size=batch_size)


def load_model(options: ExtractOptions, model: str | Encoder, device: str) -> Backbone:
    """Load one of the requested backbones."""
    return load_encoder(
        model,
        weights=options.weights.get(model_name(model)),
        tap=options.tap,
        layers=options.layers,
        tokens=options.tokens,
        projected=options.projected,
        precision=options.precision,
        storage_dtype=options.storage_dtype,
        device=device,
        compile=options.compile,
        offline=options.offline,
        paper_compat=options.paper_compat,
        preprocessing=options.preprocessing,
        background=options.background,
        spatial=options.spatial,
        spatial_layers=options.spatial_layers,
    )


def _refuse_unreadable(dataset: Dataset, splits: Sequence[str]) -> None:
    """Raise DataError for samples known to be unreadable, before any work."""
    for split in splits:
        unreadable: dict[str, str] = getattr(dataset.split(split), "unreadable", {})
        for sample, reason in unreadable.items():
            count = ""
            if len(unreadable) > 1:
                count = f" ({len(unreadable)} such samples in split {split})"
            raise DataError(
                f"sample {sample!r} cannot be read: {reason}{count}. "
                "on_error='skip' leaves such images out and lists them in the cache"
            )


def _origin(options: ExtractOptions, model: str | Encoder) -> Origin:
    weights, data_root = options.weights.get(model_name(model)), options.data_root
    return Origin(
        dataset=dataset_source(options.dataset) if isinstance(options.dataset, str) else None,
        data_root=None if data_root is None else str(datasets.data_root(data_root)),
        weights=None if weights is None else str(Path(weights).expanduser().absolute()),
        paper_compat=options.paper_compat,
        preprocessing=options.preprocessing.given(),
        on_error=options.on_error,
        compressor=options.compressor,
    )


def _target(
    model: str | Encoder,
    backbone: Backbone,
    identity: DatasetIdentity,
    root: CachePath,
    splits: Sequence[str],
    origin: Origin,
    *,
    codec: str | None,
) -> PlannedCache:
    if codec is not None:
        CodecSpec.parse(codec).code_width(backbone.width)  # raises if it does not fit
    spec = CacheSpec(
        model=backbone.name,
        architecture=backbone.architecture,
        weights=backbone.weights_digest,
        depth=backbone.depth,
        width=backbone.width,
        tap=backbone.tap,
        layers=backbone.layers,
        tokens=backbone.tokens,
        projected=backbone.projected,
        preprocessing=backbone.preprocessing.to_json(),
        precision=backbone.precision,
        storage_dtype=backbone.storage_dtype,
        dataset=identity,
        codec=codec,
    )
    path = cache_folder(root, spec)
    complete = [split for split in splits if is_complete(path, spec, split)]
    return PlannedCache(
        model=model,
        backbone=backbone,
        spec=spec,
        path=path,
        origin=origin,
        pending=tuple(split for split in splits if split not in complete),
        leftovers=tuple(split for split in complete if has_leftovers(path, spec, split)),
    )
