"""What an extraction will do, before it does it: the caches, what of them is missing, and whether the disk can hold it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch

from layercache.cache.find import open_cache
from layercache.cache.format.compressor import Compressor
from layercache.cache.format.layout import SplitLayout, cache_folder, planned_bytes
from layercache.cache.format.records import CompleteRecord
from layercache.cache.format.spec import CacheSpec, DatasetIdentity
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import CachePath, cache_root
from layercache.cache.writing.block_writer import parse_record
from layercache.engine import why_device
from layercache.errors import CacheError, DataError, OptionError, StorageError, UnknownNameError
from layercache.extraction import datasets
from layercache.extraction.datasets.base import Dataset
from layercache.extraction.models.backbone import Backbone, load_backbone
from layercache.extraction.options import ExtractOptions
from layercache.extraction.result import human

ASK_ABOVE = 20 << 30
"""Bytes of cache above which `extract` asks first."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One model's cache of the data set."""

    backbone: Backbone
    spec: CacheSpec
    path: CachePath
    """The cache's folder."""
    todo: tuple[str, ...]
    """Splits without a complete record."""
    littered: tuple[str, ...]
    """Complete splits whose writer was killed after its last commit: its temporary files and its name in the lock are still there."""

    @property
    def missing_bytes(self) -> int:
        """What is still to be written, uncompressed."""
        return sum(
            max(
                0,
                planned_bytes(self.spec, self.spec.dataset.splits[s].rows)
                - size_on_disk(self.path, self.spec, s),
            )
            for s in self.todo
        )


@dataclass(frozen=True, kw_only=True)
class ExtractionPlan:
    """What is to be done."""

    dataset: Dataset
    """As limited."""
    splits: tuple[str, ...]
    """Asked for, in order."""
    root: CachePath
    """Place of the caches."""
    device: str
    """"cpu" or "cuda"."""
    why_device: str
    """For the user."""
    batch_size: int
    targets: tuple[Target, ...]
    """One per model, in the order asked for."""

    @property
    def missing_bytes(self) -> int:
        """What is still to be written for all models, uncompressed."""
        return sum(target.missing_bytes for target in self.targets)

    def check_room(self) -> None:
        """Raises StorageError if the disk is too small for what is missing; an object store has no end."""
        if not isinstance(self.root, Path):
            return
        folder = next(p for p in (self.root, *self.root.parents) if p.exists())
        free = shutil.disk_usage(folder).free
        if self.missing_bytes > free:
            raise StorageError(
                f"{self.root}: the cache needs {human(self.missing_bytes)} more and the disk has {human(free)} free: "
                "make room, choose another disk with --cache, or store less (--layers, --tokens, --limit)"
            )


def make_plan(options: ExtractOptions) -> ExtractionPlan:
    """Open the data set, load the backbones, look for what is there. Raises whatever is wrong with a name, a file or an option.

    With another engine than this process, backbones are loaded here for what they are only, and `place` says where they run.
    """
    if options.codec is not None:
        Compressor(options.codec)  # refuses a word that it does not know, before anything is read
    device, why = (
        choose_device(options.device) if options.engine == "local" else ("cpu", "to be found out")
    )
    dataset = options.dataset
    if isinstance(dataset, str):
        dataset = datasets.open_dataset(dataset, root=options.data_root, download=options.download)
    for split in options.splits:
        if split not in dataset.splits:
            raise UnknownNameError(f"split of data set {dataset.name}", split, dataset.splits)
    splits = tuple(options.splits) or dataset.splits
    dataset = datasets.limit_samples(dataset, options.limit, seed=options.seed)
    root = cache_root(options.cache)
    backbones = [load(options, model, device) for model in options.models]
    identity = datasets.dataset_identity(dataset, options.limit, seed=options.seed)
    if options.on_error == "stop":
        _refuse_unreadable(dataset, splits)
    targets = tuple(_target(backbone, identity, root, splits) for backbone in backbones)
    if len({target.path for target in targets}) < len(targets):
        raise OptionError(f"models: {', '.join(options.models)} name one cache twice")
    batch_size = _batch_size(options, device)
    return ExtractionPlan(
        dataset=dataset,
        splits=splits,
        root=root,
        device=device,
        why_device=why,
        batch_size=batch_size,
        targets=targets,
    )


def place(plan: ExtractionPlan, options: ExtractOptions, *, gpu: bool) -> ExtractionPlan:
    """The plan, with its forwards on the workers of a cluster, which have GPUs or not."""
    device = "cuda" if gpu else "cpu"
    return replace(
        plan,
        device=device,
        why_device=why_device(options.device, gpu=gpu),
        batch_size=_batch_size(options, device),
    )


def _batch_size(options: ExtractOptions, device: str) -> int:
    return options.batch_size or (64 if device == "cpu" else 256)


def choose_device(asked: str) -> tuple[str, str]:
    """("cpu" or "cuda", why). Raises OptionError for a GPU that is not there."""
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise OptionError("device cuda: torch sees no GPU here; use --device cpu (or auto)")
    if asked != "auto":
        return asked, "as asked"
    return ("cuda", torch.cuda.get_device_name()) if there else ("cpu", "no GPU found")


def _refuse_unreadable(dataset: Dataset, splits: Sequence[str]) -> None:
    """What the identity has found out need not wait until a worker gets there."""
    for split in splits:
        unreadable: dict[str, str] = getattr(dataset.split(split), "unreadable", {})
        for sample, why in unreadable.items():
            count = (
                f" ({len(unreadable)} such samples in split {split})" if len(unreadable) > 1 else ""
            )
            raise DataError(
                f"sample {sample!r} cannot be read: {why}{count}. --on-error skip leaves such images out and lists them in the cache"
            )


def size_on_disk(path: CachePath, spec: CacheSpec, split: str) -> int:
    """Bytes of the files of one split's Zarr group."""
    return sum(
        entry.size for entry in open_store(path).list_files(SplitLayout(spec, split).group).values()
    )


def load(options: ExtractOptions, model: str, device: str) -> Backbone:
    """One of the backbones that the options ask for."""
    return load_backbone(
        model,
        weights=options.weights.get(model),
        tap=options.tap,
        layers=options.layers,
        tokens=options.tokens,
        projected=options.projected,
        precision=options.precision,
        storage_dtype=options.store_dtype,
        device=device,
        compile=options.compile,
        paper_compat=options.paper_compat,
    )


def _target(
    backbone: Backbone, identity: DatasetIdentity, root: CachePath, splits: Sequence[str]
) -> Target:
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
    )
    path = cache_folder(root, spec)
    complete = [split for split in splits if _complete(path, spec, split)]
    return Target(
        backbone=backbone,
        spec=spec,
        path=path,
        todo=tuple(split for split in splits if split not in complete),
        littered=tuple(split for split in complete if _littered(path, SplitLayout(spec, split))),
    )


def _complete(path: CachePath, spec: CacheSpec, split: str) -> bool:
    """The split has its complete record, every shard its length and every other file its digest: what is lost is made again, not believed in."""
    store, layout = open_store(path), SplitLayout(spec, split)
    try:
        open_cache(path).split(split)
        files = CompleteRecord.from_bytes(store.read(layout.complete), where=layout.complete).files
    except StorageError:
        raise
    except CacheError:
        return False  # absent, begun or damaged: the writer looks closer
    found = store.read_many(files)
    if any(
        key not in found or sha256(found[key]).hexdigest() != digest
        for key, digest in files.items()
    ):
        return False
    shards = store.list_files(layout.tokens)
    return all(
        parse_record(layout, b, found.get(layout.record(b)), shards.get(layout.shard(b)))
        for b in range(layout.blocks)
    )


def _littered(path: CachePath, layout: SplitLayout) -> bool:
    if not isinstance(path, Path):
        return False
    lock = path / layout.lock
    return (lock.exists() and lock.stat().st_size > 0) or (path / layout.partial).exists()
